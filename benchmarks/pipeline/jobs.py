"""What the pipeline itself costs: a head without a network, and the quickstart.

    python -m benchmarks.pipeline.jobs --json benchmarks/results/pipeline.json

Inputs: the shipped database and ``jobs/quickstart.yaml``. Two jobs run on a Ray of their own. The
first has the null head, so that all time is the pipeline's: looking up neighbors, encoding,
writing, and what Ray adds for every shard. Nothing is compared; the floor is the same work done by
one process in a plain loop, on every core at once. The second is the quickstart, beside what is
asked of it. Both write into a temporary folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.assemble import SHAPES_DATABASE, null_shards
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from benchmarks.timing import once
from rdm_batch.reports.provenance import describe_machine
from rdm_batch.reports.saved import load_run
from rdm_batch.specs.load import parse_job

ROOT = Path(__file__).parents[2]
PARTS = ("null", "quickstart")
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
        "database": {"uri": SHAPES_DATABASE},
        "conditioning": {"mode": "unconditional", "k_nn": 4},
        "sampling": {"sampler": "none", "num_samples": samples, "batch_size": 64},
        "output": {"uri": str(out), "shard_size": SHARD_SIZE},
    }


def run_job(job: Path, *arguments: str) -> float:
    """Run a job in its own process; give its wall time in seconds."""
    command = [sys.executable, "-m", "rdm_batch.run", str(job), *arguments]
    return once(lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL))[0]


def floor_s(document: dict[str, Any]) -> dict[str, float]:
    """Do the work of three shards in a plain loop; give the best time of one, by activity."""
    best: dict[str, float] = {}
    for times in null_shards(parse_job(document, "null job"), 3):
        for name, (start, end) in times.items():
            best[name] = min(best.get(name, np.inf), end - start)
    return best


def measure_null(samples: int, work: Path) -> tuple[list[Row], str]:
    """Measure the null job and its floor; say what the floor consists of."""
    document = null_job(samples, work / "null")
    job = work / "null.yaml"
    job.write_text(yaml.safe_dump(document))
    run_job(job)
    speed = load_run(str(work / "null")).report.throughput
    floor = floor_s(document)
    shard_floor_s = sum(floor.values())
    cores = describe_machine().num_cores
    shards = samples // SHARD_SIZE
    parts = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in floor.items())
    rows = [
        Row(
            name="committed images/s",
            value=speed.images_per_s,
            unit="images/s",
            higher_is_better=True,
            floor=SHARD_SIZE / shard_floor_s * cores,
            needed=NEEDED_IMAGES_PER_S,
            details={"heads": len(speed.heads)},
        ),
        Row(
            name=f"core seconds per shard of {SHARD_SIZE}",
            value=speed.generation_s * cores / shards,
            unit="s",
            floor=shard_floor_s,
        ),
    ]
    note = (
        f"Floor: one shard in a plain loop ({parts}), on every core at once. The gap is Ray: calls "
        "between processes, copies, threads that share cores."
    )
    return rows, note


def measure_quickstart(work: Path) -> list[Row]:
    """Measure the quickstart from its command to its table."""
    job = ROOT / "jobs" / "quickstart.yaml"
    wall_s = run_job(job, "--set", f"output.uri={work / 'quickstart'}")
    report = load_run(str(work / "quickstart")).report
    stages = {stage.name: stage.end_s for stage in report.start_up}
    speed = report.throughput
    return [
        Row(name="command to exit", value=wall_s, unit="s", needed=NEEDED_QUICKSTART_S),
        Row(
            name="command to first committed shard",
            value=stages["first shard"],
            unit="s",
            needed=NEEDED_FIRST_SHARD_S,
            details={f"{name} done at s": end_s for name, end_s in stages.items()},
        ),
        Row(
            name="heads' time in the model",
            value=speed.model_share,
            higher_is_better=True,
            needed=NEEDED_MODEL_SHARE,
        ),
        Row(
            name="images/s between first and last shard",
            value=speed.images_per_s,
            unit="images/s",
            higher_is_better=True,
        ),
    ]


def main(argv: list[str] | None = None) -> None:
    """Measure both jobs, or those asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--samples", type=int, default=8192, help="of the null head")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    args = parser.parse_args(argv)
    recorder = Recorder(
        "pipeline.jobs",
        "The pipeline",
        "Jobs from the command line, each on a Ray of its own.",
        args.json,
    )
    with tempfile.TemporaryDirectory(prefix="rdm_batch-benchmark-") as name:
        if "null" in args.only:
            rows, note = measure_null(args.samples, Path(name))
            settings = {"samples": args.samples, "image_size": 32}
            recorder.add("null head", rows, settings, [note])
        if "quickstart" in args.only:
            recorder.add("quickstart", measure_quickstart(Path(name)))


if __name__ == "__main__":
    run(main)
