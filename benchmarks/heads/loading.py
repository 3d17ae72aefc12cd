"""Measure the memory and time of loading a checkpoint as published, optimizer state included.

    python -m benchmarks.heads.loading --json benchmarks/results/loading.json

Inputs: none. A file with the layout of the published ones is made in a temporary folder: raw
weights, their moving average and two moments of the optimizer, all zero, which costs as much to
read as any numbers (6.6 GB for ``rdm-imagenet-256``). A process of its own loads it and builds a
head, and tells how far its memory grew over what it had before, at the highest. Nothing is
compared: the floor of the peak is the weights that are kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from rdm_batch.models.networks import tensor_shapes
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.presets import PRESETS

NEEDED = 1.3
_PRECISIONS = ("float32", "bfloat16")
# Run afresh: the highest amount of memory of a process never falls.
_LOAD = """
import json, sys
from benchmarks.assemble import load_published
from benchmarks.timing import once, peak_memory_bytes

path, precision = sys.argv[1:]
load, before = load_published(path, sys.stdin.read(), precision), peak_memory_bytes()
seconds, kept = once(load)
peak = peak_memory_bytes() - before
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


def measure(architecture: Architecture, folder: Path) -> list[Row]:
    """Load a made file once for each kind of arithmetic."""
    path = folder / "model.ckpt"
    write_checkpoint(path, architecture)
    rows = []
    for precision in _PRECISIONS:
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, str(path), precision],
            input=architecture.model_dump_json(),
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout)
        rows.append(
            Row(
                name=f"peak memory, head in {precision}",
                value=found["peak_bytes"] / 1e9,
                unit="GB",
                floor=found["kept_bytes"] / 1e9,
                needed=NEEDED * found["kept_bytes"] / 1e9,
                details={"file GB": path.stat().st_size / 1e9, "s": found["seconds"]},
            )
        )
    path.unlink()
    return rows


def main(argv: list[str] | None = None, presets: dict[str, Architecture] = PRESETS) -> None:
    """Measure the presets asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--presets", nargs="+", choices=list(presets), default=list(presets))
    args = parser.parse_args(argv)
    recorder = Recorder(
        "heads.loading",
        "Loading checkpoints with optimizer state",
        "Growth of a fresh process's memory until a head stands, at the highest. Floor: the "
        f"float32 weights that are kept; at most {NEEDED} times these are asked for.",
        args.json,
    )
    for preset in args.presets:
        with tempfile.TemporaryDirectory(prefix="rdm_batch-loading-") as folder:
            recorder.add(preset, measure(presets[preset], Path(folder)))


if __name__ == "__main__":
    run(main)
