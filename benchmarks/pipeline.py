"""What the pipeline itself costs: a head without a network, and the quickstart.

    python benchmarks/pipeline.py [--samples 8192] [--out benchmarks/results]

Two jobs run on a Ray of their own. The first has the null head, so that all time is the
pipeline's: looking up neighbors, encoding, writing, and what Ray adds for every shard. The
floor beside it is the same work done by one process in a plain loop. The second is
``jobs/quickstart.yaml``. Both write where ``--work`` says and are removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rdm_batch.engine.plan import ShardRange
from rdm_batch.engine.worker import ContextSource, ShardClock, ShardRenderer, shard_table
from rdm_batch.generation.modes.unconditional import UnconditionalConditioner
from rdm_batch.heads.null import NullHead
from rdm_batch.inputs.databases import fetch_manifest, load_proposal
from rdm_batch.reports.provenance import describe_machine
from rdm_batch.reports.saved import load_run
from rdm_batch.retrieval.local import open_database
from rdm_batch.specs.load import parse_job
from rdm_batch.storage.object_store import local_path
from rdm_batch.storage.table import table_bytes

ROOT = Path(__file__).parents[1]
DATABASE = "package://shapes/database"
SHARD_SIZE = 256
NEEDED_IMAGES_PER_S = 200
NEEDED_MODEL_SHARE = 0.9
NEEDED_FIRST_SHARD_S = 25
NEEDED_QUICKSTART_S = 90


def null_job(samples: int, out: Path) -> dict[str, Any]:
    """Describe a job without model work, 32 x 32 images."""
    return {
        "name": "null-head",
        "model": {"head": "noise", "image_size": 32},
        "database": {"uri": DATABASE},
        "conditioning": {"mode": "unconditional", "k_nn": 4},
        "sampling": {"sampler": "none", "num_samples": samples, "batch_size": 64},
        "output": {"uri": str(out), "shard_size": SHARD_SIZE},
    }


def run(job: Path, *arguments: str) -> float:
    """Run a job in its own process; give its wall time in seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "rdm_batch.run", str(job), *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def floor_s(document: dict[str, Any]) -> dict[str, float]:
    """Do the work of three shards in a plain loop; give the best time of one, by activity."""
    spec = parse_job(document, "null job")
    manifest = fetch_manifest(DATABASE)
    proposal = load_proposal(DATABASE, manifest)
    assert proposal is not None
    retriever = open_database(local_path(DATABASE))
    source = ContextSource(UnconditionalConditioner(proposal, 4, "proposal"), retriever)
    renderer = ShardRenderer(NullHead(32, manifest.dim), 0, 64)
    best: dict[str, float] = {}
    for index in range(3):
        clock = ShardClock()
        shard = ShardRange(index, index * SHARD_SIZE, (index + 1) * SHARD_SIZE)
        rendered = renderer.render(shard, source, clock)
        with clock.measure("encode"):
            table = shard_table(rendered, spec.sampling)
        with clock.measure("write"):
            table_bytes(table)
        for name, (start, end) in clock.intervals.items():
            best[name] = min(best.get(name, np.inf), end - start)
    return best


def measure_null(samples: int, work: Path) -> dict[str, Any]:
    """Measure the null job and its floor."""
    document = null_job(samples, work / "null")
    job = work / "null.yaml"
    job.write_text(yaml.safe_dump(document))
    run(job)
    speed = load_run(str(work / "null")).report.throughput
    floor = floor_s(document)
    shard_floor_s = sum(floor.values())
    cores = describe_machine().num_cores
    shards = samples // SHARD_SIZE
    return {
        "samples": samples,
        "shards": shards,
        "images_per_s": speed.images_per_s,
        "needed_images_per_s": NEEDED_IMAGES_PER_S,
        "core_seconds_per_shard": speed.generation_s * cores / shards,
        "floor_seconds_per_shard": shard_floor_s,
        "floor_parts_s": floor,
        "floor_images_per_s": SHARD_SIZE / shard_floor_s * cores,
        "heads": len(speed.heads),
    }


def measure_quickstart(work: Path) -> dict[str, Any]:
    """Measure the quickstart from its command to its table."""
    wall_s = run(ROOT / "jobs" / "quickstart.yaml", "--set", f"output.uri={work / 'quickstart'}")
    report = load_run(str(work / "quickstart")).report
    stages = {stage.name: stage.end_s for stage in report.start_up}
    return {
        "samples": report.sample_set.rows,
        "command_to_exit_s": wall_s,
        "needed_command_to_exit_s": NEEDED_QUICKSTART_S,
        "first_shard_s": stages["first shard"],
        "needed_first_shard_s": NEEDED_FIRST_SHARD_S,
        "images_per_s": report.throughput.images_per_s,
        "model_share": report.throughput.model_share,
        "needed_model_share": NEEDED_MODEL_SHARE,
        "start_up_s": stages,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """Lay the figures out beside what is needed."""
    null, quick, machine = result["null_head"], result["quickstart"], result["machine"]
    floor = ", ".join(f"{name} {s * 1e3:.1f} ms" for name, s in null["floor_parts_s"].items())
    gap = null["core_seconds_per_shard"] / null["floor_seconds_per_shard"]
    rates = ("images_per_s", "needed_images_per_s", "floor_images_per_s")
    costs = ("core_seconds_per_shard", "floor_seconds_per_shard")
    lines = [
        "# The pipeline",
        "",
        f"{machine['cpu_model']}, {machine['num_cores']} cores. `python benchmarks/pipeline.py`",
        "",
        f"## Null head: {null['samples']:,} images of 32 x 32, {null['heads']} heads",
        "",
        "| | measured | needed | floor |",
        "|---|---|---|---|",
        "| committed images/s | " + " | ".join(f"{null[key]:.0f}" for key in rates) + " |",
        f"| core seconds per shard of {SHARD_SIZE} | "
        + " | | ".join(f"{null[key]:.3f}" for key in costs)
        + " |",
        "",
        f"The floor is the work of one shard in a plain loop ({floor}), on every core at once.",
        f"The gap, {gap:.1f} x, is Ray: calls between processes, copies, threads that share cores.",
        "",
        f"## Quickstart: {quick['samples']} samples, scored",
        "",
        "| | measured | needed |",
        "|---|---|---|",
        _row("command to exit", quick, "command_to_exit_s", "{:.1f} s"),
        _row("command to first committed shard", quick, "first_shard_s", "{:.1f} s"),
        _row("heads' time in the model", quick, "model_share", "{:.1%}"),
        f"| images/s between first and last shard | {quick['images_per_s']:.1f} | |",
    ]
    return "\n".join(lines) + "\n"


def _row(label: str, figures: dict[str, Any], key: str, form: str) -> str:
    return f"| {label} | {form.format(figures[key])} | {form.format(figures[f'needed_{key}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=8192)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="rdm_batch-benchmark-"))
    try:
        result = {
            "machine": describe_machine().model_dump(mode="json"),
            "null_head": measure_null(args.samples, work),
            "quickstart": measure_quickstart(work),
        }
    finally:
        shutil.rmtree(work)
    text = as_markdown(result)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "pipeline.json").write_text(json.dumps(result, indent=2) + "\n")
    (args.out / "pipeline.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
