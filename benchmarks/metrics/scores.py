"""Measure features and scores beside torch-fidelity, in the same run, on the same threads.

    python -m benchmarks.metrics.scores --samples 10000 --pairs 10000 --large 50000 --images 192 \\
        --json benchmarks/results/metrics.json

Inputs: none; pictures, features and the weights of Inception are made. Baseline of the ratios:
torch-fidelity on the same inputs, in the same run.

- features: Inception over a folder of PNG files, decoding included; both programs warm their
  network first, and the files are in the cache of the system. The floor is the network alone.
- workers: the same extraction by one and more Ray actors of one thread.
- pairs: precision and recall, and the memory they take; the floor is the multiply-adds of three
  distance matrices, two of them symmetric, over the speed of a matrix product measured with each
  part.
- large: the same where torch-fidelity's matrices do not fit in memory.
- fid: from features of both sides in memory to the distance; the floor is its covariances and
  eigenvalue problems alone.
- scores: the scores one by one, from features in memory.
- command: ``rdm-batch evaluate`` as a process, from its start to its end, on a set whose
  features are kept.

Every measurement runs in a process of its own. Sizes are small by default; those above are the
ones whose figures are kept. With ``--only``, the other parts stay as they are in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.metrics.rows import ROWS, THEIRS
from benchmarks.metrics.tasks import TASKS, product_speed, write_images
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.timing import once

ROOT = Path(__file__).parents[2]
SCORES = ("fid", "sfid", "kid", "is", "precision", "recall", "density", "coverage")
PARTS = tuple(ROWS)
# A set of pictures nobody looks at: its features are made up.
TINY = 8


def run_apart(*command: object) -> str:
    """Run a command from the repository, and give what it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # Modules are compiled once, as they are where people work.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    words = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}:\n{done.stderr}")
    return done.stdout


def run_task(name: str, *arguments: object) -> dict[str, Any]:
    """Run one task in a process of its own, so that its peak of memory is its own."""
    printed = run_apart("benchmarks.metrics.scores", "--task", name, *arguments)
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return result


def both(task: str, *arguments: object) -> dict[str, Any]:
    """Run a task of torch-fidelity and of ours."""
    return {who: run_task(f"{task}-{who}", *arguments) for who in (THEIRS, "ours")}


def run_command(folder: Path, weights: Path, count: int) -> dict[str, Any]:
    """Time ``rdm-batch evaluate`` with every score of Inception features, features kept."""
    sides = []
    for seed in (0, 1):
        path = folder / f"side-{seed}.npz"
        images = np.random.default_rng(seed).integers(0, 256, (count, TINY, TINY, 3), np.uint8)
        np.savez(path, images)
        run_task("keep-features", path, weights, seed)
        sides.append(path)
    extractor = ("--extractor", "inception-v3-compat", "--extractor-weights", weights)
    statistics = folder / "reference.npz"
    run_apart("rdm_batch.cli", "reference", "build", sides[1], "--out", statistics, *extractor)
    seconds = {}
    for name, reference in (("saved statistics", statistics), ("images", sides[1])):
        command = ("evaluate", sides[0], "--reference", reference, "--scores", *SCORES, *extractor)
        seconds[name] = once(lambda words=command: run_apart("rdm_batch.cli", *words))[0]
    return seconds


def measure(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure part by part, each beside the speed of matrix products at that time."""
    with tempfile.TemporaryDirectory() as name:
        weights, folder = Path(name) / "inception.pth", Path(name) / "images"
        folder.mkdir()
        if not {"features", "workers", "command"}.isdisjoint(args.only):
            from tests.metrics.random_networks import write_inception

            write_inception(weights)
        if not {"features", "workers"}.isdisjoint(args.only):
            write_images(folder, args.images, args.image_size)
        os.environ["RDM_BATCH_CACHE"] = f"{name}/cache"
        for part in args.only:
            conditions = {
                "product_gmac_s": product_speed(torch.float32) / 1e9,
                "product_double_gmac_s": product_speed(torch.float64) / 1e9,
            }
            yield part, conditions | _measure_part(part, args, folder, weights)


def _measure_part(
    part: str, args: argparse.Namespace, folder: Path, weights: Path
) -> dict[str, Any]:
    match part:
        case "features":
            size = {"images": args.images, "image_size": args.image_size}
            floor = run_task("features-floor", folder, weights)
            return size | both("features", folder, weights) | {"floor": floor}
        case "workers":
            return {
                "actors": {str(n): run_task("workers", folder, weights, n) for n in args.workers}
            }
        case "pairs":
            return {"count": args.pairs} | both("pairs", args.pairs, args.pairs)
        case "large":
            return {"count": args.large, "ours": run_task("pairs-ours", args.large, args.large)}
        case "fid":
            floor = run_task("fid-floor", args.samples)
            return {"count": args.samples} | both("fid", args.samples) | {"floor": floor}
        case "scores":
            return {"count": args.samples} | run_task("scores", args.samples)
        case _:
            seconds = run_command(folder.parent, weights, args.samples)
            return {"count": args.samples, "seconds": seconds}


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for, or run one task of them."""
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--large", type=int, default=8000)
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.task:
        name, *values = args.task
        print(json.dumps(TASKS[name](*(int(v) if v.isdecimal() else v for v in values))))
        return
    recorder = Recorder(
        "metrics.scores",
        "Features and scores",
        "Features of width 2,048, random but shaped like Inception's; Inception with random "
        "weights.",
        args.json,
        "torch-fidelity on the same inputs, in the same run",
    )
    for name, found in measure(args):
        rows, notes = ROWS[name]
        settings = {
            "threads": torch.get_num_threads(),
            "product G multiply-adds/s": found["product_gmac_s"],
            "the same in float64": found["product_double_gmac_s"],
        }
        if "count" in found:
            settings["samples"] = found["count"]
        recorder.add(name, rows(found), settings, notes(found))


if __name__ == "__main__":
    run(main)
