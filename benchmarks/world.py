"""Measure whether the shipped heads of the shapes world do what the method promises.

    python -m benchmarks.world --json benchmarks/results/world.json --pictures docs/pictures

Every way of conditioning is judged by a classifier of rendered pixels (see
``benchmarks.world_judge``); its own accuracy on unseen renderings is the first line. Then
follow the trade of quality against diversity by top-m and guidance, how near samples come to
what they were made from, and the same head without neighbors. ``benchmarks.world_page`` makes
tables and curves of the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.world_cases import Case, World, claims
from benchmarks.world_copying import measure_copying
from benchmarks.world_judge import accuracy, judge_accuracy, train_judge
from benchmarks.world_rows import Row, write_rows
from benchmarks.world_scores import Scorer
from rdm_batch.heads.build import build_head
from rdm_batch.heads.head import Head
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.sampling import AutoregressiveSampling, DdimSampling
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.pictures import save_grid

NUM_STEPS = 20
GUIDANCE = 2.0
TOP_M = (1.0, 0.1, 0.01)
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
PARAMETRIC = {"rdm": "ldm", "rarm": "ar"}
_BATCH = 64
_PICTURED = 48


def shipped_head(kind: str, guidance_scale: float, checkpoint: str | Path | None = None) -> Head:
    """Build a shipped head, or another of its kind, with this world's usual sampler."""
    loaded = load_checkpoint(local_path(str(checkpoint or f"package://shapes/{kind}.safetensors")))
    weights = {name: tensor.float() for name, tensor in loaded.state_dict.items()}
    sampling: DdimSampling | AutoregressiveSampling
    if loaded.architecture.kind == "rdm":
        sampling = DdimSampling(
            sampler="ddim", num_steps=NUM_STEPS, guidance_scale=guidance_scale, num_samples=1
        )
    else:
        sampling = AutoregressiveSampling(
            sampler="autoregressive", guidance_scale=guidance_scale, num_samples=1
        )
    return build_head(loaded.architecture, weights, sampling)


def generate(head: Head, context: np.ndarray) -> np.ndarray:
    """Make one picture of every context; picture i has the noise of sample i of seed 0."""
    parts = []
    for start in range(0, len(context), _BATCH):
        part = context[start : start + _BATCH].astype(np.float32)
        parts.append(head.generate(part, SampleNoise(0, np.arange(start, start + len(part)))))
    return np.concatenate(parts)


class Bench:
    """Measure the heads one after another, printing as numbers come."""

    def __init__(self, samples: int, pictures: Path | None) -> None:
        self.samples = samples
        self.pictures = pictures
        self.world = World()
        self.judge = train_judge()
        self.scorer = Scorer(self.world.encoder)
        self.cases: dict[str, Case] = claims(self.world, samples)
        self.rows: list[Row] = []
        self.add({"part": "judge", "case": "renderings", **judge_accuracy(self.judge)})

    def add(self, row: Row) -> None:
        """Keep and print a result."""
        self.rows.append(row)
        print("  ".join(_shown(name, value) for name, value in row.items()), flush=True)

    def claims(self, kind: str, head: Head) -> None:
        """Judge every way of conditioning."""
        for name, case in self.cases.items():
            images = generate(head, case.context)
            found = accuracy(self.judge, images, case.wanted)
            self.add({"part": "claims", "head": kind, "case": name, **found})
            if self.pictures is not None:
                file = f"{kind}-{name.replace(' ', '-').replace(',', '').replace('+', 'and')}.png"
                save_grid(images[:_PICTURED], self.pictures / file)
            if name == "unconditional":
                assert case.neighbor_ids is not None
                for row in measure_copying(self.world, images, case.neighbor_ids):
                    self.add({"part": "copying", "head": kind, **row})

    def parametric(self, kind: str) -> None:
        """Score a head and its twin without neighbors, without guidance."""
        for name in (kind, PARAMETRIC[kind]):
            images = generate(shipped_head(name, 1.0), self.cases["unconditional"].context)
            self.add({"part": "parametric", "head": name, **self.scorer(images)})

    def sweeps(self, kind: str) -> None:
        """Vary top-m, then guidance, of unconditional samples."""
        for top_m in TOP_M:
            images = generate(
                shipped_head(kind, GUIDANCE), self.world.unconditional(self.samples, top_m).context
            )
            found = self.scorer(images)
            self.add({"part": "top_m", "head": kind, "top_m": top_m, **found})
        for scale in SCALES:
            images = generate(shipped_head(kind, scale), self.cases["unconditional"].context)
            followed = accuracy(self.judge, images, self.cases["unconditional"].wanted)
            self.add(
                {
                    "part": "guidance",
                    "head": kind,
                    "guidance": scale,
                    **self.scorer(images),
                    "shape and color": followed["shape and color"],
                }
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_024, help="pictures of every case")
    parser.add_argument("--heads", nargs="+", default=["rdm", "rarm"], choices=["rdm", "rarm"])
    parser.add_argument("--parts", nargs="+", default=["claims", "sweeps", "parametric"])
    parser.add_argument("--pictures", type=Path, help="folder for grids of samples")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--checkpoint", help="another head of the kind named, for the claims")
    args = parser.parse_args()

    torch.set_num_threads(1)
    bench = Bench(args.samples, args.pictures)
    for kind in args.heads:
        if "claims" in args.parts:
            bench.claims(kind, shipped_head(kind, GUIDANCE, args.checkpoint))
        if "sweeps" in args.parts:
            bench.sweeps(kind)
        if "parametric" in args.parts:
            bench.parametric(kind)
    if args.json is not None:
        settings = {"samples": args.samples, "guidance": GUIDANCE, "num_steps": NUM_STEPS}
        write_rows(args.json, settings, bench.rows)


def _shown(name: str, value: object) -> str:
    if not isinstance(value, float):
        return f"{value:<22}" if name == "case" else str(value)
    return f"{name} {value:.4g}"


if __name__ == "__main__":
    main()
