"""Measure the memory and time of loading a checkpoint as published, optimizer state included.

    python -m benchmarks.loading --json benchmarks/results/loading.json

A file with the layout of the published ones is made in a temporary folder: raw weights, their
moving average and two moments of the optimizer, all zero, which costs as much to read as any
numbers. A process of its own loads it and builds a head, and tells how far its memory grew
over what it had before, at the highest. Beside the JSON file a page (`.md`) is written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdm_batch.models.networks import tensor_shapes
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.presets import PRESETS

NEEDED = 1.3

# Run afresh: the highest amount of memory of a process never falls. (getrusage would not do: its
# maximum starts with that of the process before exec.)
_LOAD = """
import json, sys, time
from pathlib import Path
from benchmarks.counting import peak_memory_bytes
from rdm_batch.heads.build import build_head_around
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.models.networks import load_networks
from rdm_batch.specs.families import parse_architecture
from rdm_batch.specs.sampling import AutoregressiveSampling, DdimSampling

path, precision = sys.argv[1:]
architecture = parse_architecture(sys.stdin.read(), "stdin")
if architecture.kind == "rdm":
    sampling = DdimSampling(sampler="ddim", num_samples=1, num_steps=2)
else:
    sampling = AutoregressiveSampling(sampler="autoregressive", num_samples=1)
before, begin = peak_memory_bytes("cpu"), time.perf_counter()
loaded = load_checkpoint(Path(path), architecture)
kept = sum(value.nbytes for value in loaded.state_dict.values())
networks = load_networks(loaded.architecture, loaded.state_dict)
del loaded
build_head_around(networks, sampling, precision=precision)
seconds = time.perf_counter() - begin
peak = peak_memory_bytes("cpu") - before
print(json.dumps({"kept_bytes": kept, "peak_bytes": peak, "seconds": seconds}))
"""


def write_checkpoint(path: Path, architecture: Architecture) -> None:
    """Write zeros in the layout of the published Lightning checkpoints."""
    weights = {name: torch.zeros(shape) for name, shape in tensor_shapes(architecture).items()}
    trained = {k: v for k, v in weights.items() if not k.startswith("first_stage_model.")}
    average: dict[str, Tensor] = {}
    if architecture.kind == "rdm":
        average = {
            "model_ema." + name.removeprefix("model.").replace(".", ""): torch.zeros_like(value)
            for name, value in trained.items()
        }
    moments = {
        number: {key: torch.zeros_like(value) for key in ("exp_avg", "exp_avg_sq")}
        for number, value in enumerate(trained.values())
    }
    content = {"state_dict": weights | average, "optimizer_states": [{"state": moments}]}
    torch.save(content, path)


def measure(architecture: Architecture, folder: Path) -> list[dict[str, Any]]:
    """Load a made file once for each kind of arithmetic."""
    path = folder / "model.ckpt"
    write_checkpoint(path, architecture)
    rows = []
    for precision in ("float32", "bfloat16"):
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, str(path), precision],
            input=architecture.model_dump_json(),
            capture_output=True,
            text=True,
            check=True,
        )
        found = {"precision": precision, "file_bytes": path.stat().st_size}
        found |= json.loads(done.stdout)
        rows.append(found | {"peak_over_kept": found["peak_bytes"] / found["kept_bytes"]})
    path.unlink()
    return rows


def as_markdown(record: dict[str, list[dict[str, Any]]]) -> str:
    """Lay a record out as a page."""
    lines = [
        "# Loading checkpoints with optimizer state",
        "",
        "`python -m benchmarks.loading`: growth of a fresh process's memory until a head stands, "
        f"at the\nhighest; at most {NEEDED} x the float32 weights that are kept is asked for.",
        "",
        "| preset | head computes in | file GB | kept GB | peak GB | peak / kept | s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {preset} | {row['precision']} | {row['file_bytes'] / 1e9:.2f} "
        f"| {row['kept_bytes'] / 1e9:.2f} | {row['peak_bytes'] / 1e9:.2f} "
        f"| {row['peak_over_kept']:.2f} | {row['seconds']:.1f} |"
        for preset, rows in record.items()
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None, presets: dict[str, Architecture] = PRESETS) -> None:
    """Measure presets, print a table and write JSON and a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", choices=list(presets), default=list(presets))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and a page here")
    args = parser.parse_args(argv)
    record = {}
    for preset in args.presets:
        with tempfile.TemporaryDirectory(prefix="rdm_batch-loading-") as folder:
            record[preset] = measure(presets[preset], Path(folder))
    print(as_markdown(record))
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n")
        args.json.with_suffix(".md").write_text(as_markdown(record))


if __name__ == "__main__":
    main()
