"""Compare samplers and precisions by the scores of what they draw, in the shapes world.

    python -m benchmarks.samplers --samples 2048 --json benchmarks/results/samplers.json

Every set has the same pseudo-queries, neighbors and noise, so sets differ by the sampler
alone. The first set again with another seed says how far apart equals lie: smaller
differences are none. Times are the process's CPU time, which other work on the machine
disturbs least.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.precision import measure_errors
from rdm_batch.engine.extractors import load_extractor
from rdm_batch.heads.build import build_head
from rdm_batch.heads.precision import Precision
from rdm_batch.metrics.compute import compute_scores
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.retrieval.database import read_manifest
from rdm_batch.retrieval.local import open_database, read_proposal
from rdm_batch.sampling.noise import QUERY, SampleNoise
from rdm_batch.specs.job import ExtractorSpec
from rdm_batch.specs.sampling import DdimSampling, DpmSolverSampling, PlmsSampling, SamplingSpec
from rdm_batch.storage.object_store import local_path

_KINDS = {"ddim": DdimSampling, "plms": PlmsSampling, "dpm_solver_pp": DpmSolverSampling}
_BATCH = 64
_K_NN = 4


@dataclass(frozen=True)
class Case:
    """One way of drawing a set."""

    sampler: str
    num_steps: int
    arithmetic: Precision = "float32"
    eta: float = 0.0
    seed: int = 0

    def sampling(self, guidance_scale: float) -> SamplingSpec:
        """Give the sampling part of a job that draws this way."""
        extra = {"eta": self.eta} if self.sampler == "ddim" else {}
        return _KINDS[self.sampler](
            sampler=self.sampler,
            num_samples=1,
            num_steps=self.num_steps,
            guidance_scale=guidance_scale,
            **extra,
        )


CASES = (
    Case("ddim", 20),
    Case("ddim", 20, seed=1),
    Case("ddim", 20, "bfloat16"),
    Case("ddim", 20, eta=1.0),
    Case("ddim", 100),
    Case("ddim", 50),
    Case("ddim", 10),
    Case("ddim", 5),
    Case("plms", 20),
    Case("plms", 10),
    Case("plms", 5),
    Case("dpm_solver_pp", 20),
    Case("dpm_solver_pp", 10),
    Case("dpm_solver_pp", 5),
)


def draw_context(num_samples: int, seed: int) -> np.ndarray:
    """Look up the neighbors of every sample's pseudo-query."""
    root = local_path("package://shapes/database")
    database = open_database(root)
    proposal = read_proposal(root, read_manifest(root))
    uniforms = SampleNoise(seed, np.arange(num_samples)).uniform(QUERY, ())
    queries = proposal.draw(uniforms, "proposal")
    return database.search(database.fetch(queries), _K_NN).embeddings.astype(np.float32)


def draw_images(case: Case, num_samples: int, guidance_scale: float) -> tuple[np.ndarray, float]:
    """Draw a set, and give the CPU seconds an image took."""
    checkpoint = load_checkpoint(local_path("package://shapes/rdm.safetensors"))
    head = build_head(
        checkpoint.architecture,
        checkpoint.state_dict,
        case.sampling(guidance_scale),
        precision=case.arithmetic,
    )
    context = draw_context(num_samples, case.seed)
    parts = []
    begin = time.process_time()
    for start in range(0, num_samples, _BATCH):
        indices = np.arange(start, min(start + _BATCH, num_samples))
        parts.append(head.generate(context[indices], SampleNoise(case.seed, indices)))
    return np.concatenate(parts), (time.process_time() - begin) / num_samples


def main(argv: list[str] | None = None, cases: tuple[Case, ...] = CASES) -> list[dict[str, Any]]:
    """Draw, score and print every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--guidance-scale", type=float, default=1.5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    extractor = load_extractor(ExtractorSpec(name="shapes-clip"))
    reference = ReferenceStatistics.load(local_path("package://shapes/reference.npz"))
    first: np.ndarray | None = None
    rows = []
    print(
        f"{'sampler':<15}{'steps':>6}{'eta':>5}{'arithmetic':>11}{'seed':>5}{'CPU ms':>9}", end=""
    )
    print(f"{'fid':>9}{'+-':>7}{'precision':>11}{'recall':>8}{'mean |d|':>10}")
    for case in cases:
        images, seconds = draw_images(case, args.samples, args.guidance_scale)
        first = images if first is None else first
        layers = [extractor.extract(part) for part in np.array_split(images, 32)]
        features = FeatureSet(
            extractor.description,
            np.arange(args.samples),
            {name: np.concatenate([part[name] for part in layers]) for name in layers[0]},
            "benchmark",
        )
        scores = compute_scores(features, reference, ("fid", "precision", "recall"))
        difference = float(np.abs(images.astype(int) - first).mean())
        rows.append(
            vars(case)
            | {"cpu_ms_per_image": 1e3 * seconds, "mean_difference_of_bytes": difference}
            | {score.name: score.value for score in scores}
            | {"fid_uncertainty": scores[0].uncertainty}
        )
        row = rows[-1]
        print(
            f"{case.sampler:<15}{case.num_steps:>6}{case.eta:>5.1f}{case.arithmetic:>11}"
            f"{case.seed:>5}{row['cpu_ms_per_image']:>9.1f}{row['fid']:>9.3f}"
            f"{row['fid_uncertainty'] or 0:>7.3f}{row['precision']:>11.3f}{row['recall']:>8.3f}"
            f"{difference:>10.2f}",
            flush=True,
        )
    errors = measure_errors(draw_context(min(_BATCH, args.samples), 0), args.guidance_scale)
    print("bfloat16 and channels_last against float32:", json.dumps(errors))
    if args.json:
        record = {
            "samples": args.samples,
            "guidance_scale": args.guidance_scale,
            "rows": rows,
            "errors": errors,
        }
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    return rows


if __name__ == "__main__":
    main()
