"""Compare samplers by the scores of what they draw, in the shapes world.

    python -m benchmarks.samplers --guidance-scale 1 --json benchmarks/results/samplers.json

All sets have the same pseudo-queries, neighbors and noise, so sets of a head differ by the
sampler alone. The first set again with another seed says how far apart equals lie: smaller
differences are none. Times are the process's CPU time, which other work on the machine
disturbs least. Beside the JSON file a page of the same name (`.md`) is written.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rdm_batch.heads.build import build_head
from rdm_batch.heads.precision import Precision
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.extractors import load_extractor
from rdm_batch.metrics.compute import compute_scores
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.retrieval.local import open_database
from rdm_batch.sampling.noise import QUERY, SampleNoise
from rdm_batch.specs.job import ExtractorSpec
from rdm_batch.specs.sampling import (
    AutoregressiveSampling,
    DdimSampling,
    DpmSolverSampling,
    PlmsSampling,
    SamplingSpec,
)
from rdm_batch.storage.object_store import local_path

_KINDS = {"ddim": DdimSampling, "plms": PlmsSampling, "dpm_solver_pp": DpmSolverSampling}
BATCH = 64
_K_NN = 4


@dataclass(frozen=True)
class Case:
    """One way of drawing a set.

    Attributes:
        sampler: Its name in a job.
        num_steps: Of a diffusion sampler; None for the autoregressive one.
        arithmetic: Of the networks.
        eta: Of DDIM.
        top_p: Of the autoregressive sampler; None keeps all codes.
        seed: Of queries and noise.
    """

    sampler: str
    num_steps: int | None = None
    arithmetic: Precision = "float32"
    eta: float = 0.0
    top_p: float | None = None
    seed: int = 0

    @property
    def head(self) -> str:
        """Name of the shipped head that is drawn from."""
        return "rarm" if self.sampler == "autoregressive" else "rdm"

    def sampling(self, guidance_scale: float) -> SamplingSpec:
        """Give the sampling part of a job that draws this way."""
        if self.sampler == "autoregressive":
            return AutoregressiveSampling(
                sampler="autoregressive",
                num_samples=1,
                guidance_scale=guidance_scale,
                top_p=self.top_p,
            )
        extra = {"eta": self.eta} if self.sampler == "ddim" else {}
        return _KINDS[self.sampler](
            sampler=self.sampler,
            num_samples=1,
            num_steps=self.num_steps,
            guidance_scale=guidance_scale,
            **extra,
        )

    def describe(self) -> str:
        """Say what is set, beside the arithmetic."""
        parts = [f"{self.num_steps} steps"] if self.num_steps else []
        parts += [f"eta {self.eta:g}"] if self.eta else []
        parts += [f"top_p {self.top_p:g}"] if self.top_p else []
        parts += [f"seed {self.seed}"] if self.seed else []
        return ", ".join([self.sampler, *parts])


CASES = (
    Case("ddim", 20),
    Case("ddim", 20, seed=1),
    Case("ddim", 20, eta=1.0),
    Case("ddim", 100),
    Case("ddim", 10),
    Case("ddim", 5),
    Case("plms", 20),
    Case("plms", 10),
    Case("plms", 5),
    Case("dpm_solver_pp", 20),
    Case("dpm_solver_pp", 10),
    Case("dpm_solver_pp", 5),
    Case("autoregressive"),
    Case("autoregressive", top_p=0.9),
)


def draw_context(num_samples: int, seed: int) -> np.ndarray:
    """Look up the neighbors of every sample's pseudo-query."""
    root = local_path("package://shapes/database")
    database = open_database(root)
    proposal = Database.open(str(root)).proposal()
    assert proposal is not None
    uniforms = SampleNoise(seed, np.arange(num_samples)).uniform(QUERY, ())
    queries = proposal.draw(uniforms, "proposal")
    return database.search(database.fetch(queries), _K_NN).embeddings.astype(np.float32)


def draw_images(case: Case, num_samples: int, guidance_scale: float) -> tuple[np.ndarray, float]:
    """Draw a set, and give the CPU seconds an image took."""
    checkpoint = load_checkpoint(local_path(f"package://shapes/{case.head}.safetensors"))
    head = build_head(
        checkpoint.architecture,
        checkpoint.state_dict,
        case.sampling(guidance_scale),
        precision=case.arithmetic,
    )
    context = draw_context(num_samples, case.seed)
    parts = []
    begin = time.process_time()
    for start in range(0, num_samples, BATCH):
        indices = np.arange(start, min(start + BATCH, num_samples))
        parts.append(head.generate(context[indices], SampleNoise(case.seed, indices)))
    return np.concatenate(parts), (time.process_time() - begin) / num_samples


def measure_cases(
    cases: Iterable[Case], num_samples: int, guidance_scale: float
) -> Iterator[dict[str, Any]]:
    """Draw, score and print one case after the other; bytes are compared with the first set."""
    extractor = load_extractor(ExtractorSpec(name="shapes-clip"))
    reference = ReferenceStatistics.load(local_path("package://shapes/reference.npz"))
    first: dict[str, np.ndarray] = {}
    for case in cases:
        images, seconds = draw_images(case, num_samples, guidance_scale)
        layers = [extractor.extract(part) for part in np.array_split(images, 32)]
        features = FeatureSet(
            extractor.description,
            np.arange(num_samples),
            {name: np.concatenate([part[name] for part in layers]) for name in layers[0]},
            "benchmark",
        )
        scores = compute_scores(features, reference, ("fid", "precision", "recall"))
        difference = np.abs(images.astype(int) - first.setdefault(case.head, images)).mean()
        row = (
            {"case": case.describe(), "head": case.head}
            | vars(case)
            | {"cpu_ms_per_image": 1e3 * seconds, "mean_difference_of_bytes": float(difference)}
            | {score.id: score.value for score in scores}
            | {"fid_uncertainty": scores[0].uncertainty}
        )
        print(table([row]).splitlines()[-1], flush=True)
        yield row


def table(rows: list[dict[str, Any]]) -> str:
    """Lay rows out in Markdown."""
    lines = [
        "| sampler | arithmetic | CPU ms/image | FID | precision | recall | bytes from first |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['case']} | {row['arithmetic']} | {row['cpu_ms_per_image']:.1f} "
        f"| {row['fid']:.3f}{_spread(row['fid_uncertainty'])} | {row['precision']:.3f} "
        f"| {row['recall']:.3f} | {row['mean_difference_of_bytes']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _spread(uncertainty: float | None) -> str:
    return "" if uncertainty is None else f" +- {uncertainty:.3f}"


def as_markdown(record: dict[str, Any]) -> str:
    """Lay a record out as a page."""
    return (
        "# Samplers in the shapes world\n\n"
        f"{record['samples']:,} samples of the shipped heads, guidance "
        f"{record['guidance_scale']:g}, {_K_NN} neighbors, one CPU thread; `python -m "
        "benchmarks.samplers`.\nScores are those of the shipped extractor and reference. The "
        "second row differs from the first by the\nseed alone. Last column: mean absolute "
        "difference of bytes from the head's first set.\n\n" + table(record["rows"])
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the benchmarks that draw sets have in common."""
    parser.add_argument("--samples", type=int, default=1024, help="at least 64")
    parser.add_argument("--guidance-scale", type=float, default=1.5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and a page here")


def main(argv: list[str] | None = None, cases: Iterable[Case] = CASES) -> None:
    """Draw and score every case, print them and write JSON and a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    record = {"samples": args.samples, "guidance_scale": args.guidance_scale, "rows": rows}
    for row in measure_cases(cases, args.samples, args.guidance_scale):
        rows.append(row)
        if args.json:
            args.json.write_text(json.dumps(record, indent=2) + "\n")
            args.json.with_suffix(".md").write_text(as_markdown(record))


if __name__ == "__main__":
    main()
