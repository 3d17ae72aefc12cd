"""Compare samplers by the scores of what they draw, in the shapes world.

    python -m benchmarks.heads.samplers --guidance-scale 1 \\
        --json benchmarks/results/samplers.json

Inputs: the shipped heads, database and reference of the shapes world. All sets have the same
pseudo-queries, neighbors and noise, so sets of a head differ by the sampler alone. Baseline of
the ratios: the first set of the same head. That set again with another seed says how far apart
equals lie: smaller differences are none. Times are the process's CPU time, which other work on
the machine disturbs least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import rdm_batch
from benchmarks.assemble import K_NN, SHAPES_DATABASE, Source
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Details, Row
from rdm_batch.heads.arithmetic import Precision
from rdm_batch.inputs.extractors import load_extractor
from rdm_batch.metrics.compute import compute_scores
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.specs.job import ExtractorSpec
from rdm_batch.specs.sampling import (
    AutoguidanceSpec,
    AutoregressiveSampling,
    DdimSampling,
    DpmSolverSampling,
    PlmsSampling,
    SamplingSpec,
)
from rdm_batch.storage.object_store import local_path

_SCORES = ("fid", "precision", "recall")
_COLUMNS = "bytes from first: mean absolute difference of bytes from the head's first set."
BASELINE = "the first set of the same head in CPU time, in the same run"
_KINDS = {"ddim": DdimSampling, "plms": PlmsSampling, "dpm_solver_pp": DpmSolverSampling}


# The first batch loads the head and is not timed.
_BATCH = 32


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
        guidance_scale: In place of the benchmark's.
        guidance_interval: Of a diffusion sampler; None guides all steps.
        reuse_deep_features: Of a diffusion sampler.
        weaker: Shipped head and scale of autoguidance, in place of guidance.
    """

    sampler: str
    num_steps: int | None = None
    arithmetic: Precision = "float32"
    eta: float = 0.0
    top_p: float | None = None
    seed: int = 0
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    reuse_deep_features: int = 1
    weaker: tuple[str, float] | None = None

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
        extra: dict[str, Any] = {"eta": self.eta} if self.sampler == "ddim" else {}
        if self.weaker is not None:
            name, scale = self.weaker
            extra["autoguidance"] = AutoguidanceSpec(checkpoint=shipped(name), scale=scale)
        return _KINDS[self.sampler](
            sampler=self.sampler,
            num_samples=1,
            num_steps=self.num_steps,
            guidance_scale=1.0 if self.weaker else self.guidance_scale or guidance_scale,
            guidance_interval=self.guidance_interval,
            reuse_deep_features=self.reuse_deep_features,
            **extra,
        )

    def describe(self) -> str:
        """Say what is set, beside the arithmetic."""
        parts = [f"{self.num_steps} steps"] if self.num_steps else []
        parts += [f"eta {self.eta:g}"] if self.eta else []
        parts += [f"top_p {self.top_p:g}"] if self.top_p else []
        parts += [f"guidance {self.guidance_scale:g}"] if self.guidance_scale else []
        if self.guidance_interval:
            low, high = self.guidance_interval
            parts.append(f"guided from {low:g} to {high:g}")
        if self.reuse_deep_features > 1:
            parts.append(f"deep features every {self.reuse_deep_features}")
        if self.weaker:
            parts.append(f"away from {self.weaker[0]} by {self.weaker[1]:g}")
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


def shipped(head: str) -> str:
    """Name the weights of a shipped head."""
    return f"package://shapes/{head}.safetensors"


def draw_context(source: Source, num_samples: int, seed: int) -> np.ndarray:
    """Look up the neighbors of every sample's pseudo-query."""
    found = source.inputs(source.unconditional(), num_samples, seed)
    return found.conditioning.context.astype(np.float32)


def draw_images(case: Case, num_samples: int, guidance_scale: float) -> tuple[np.ndarray, float]:
    """Draw a set as a job does, and give the CPU seconds an image took once the head was loaded."""
    job = rdm_batch.load_job(
        {
            "name": "samplers",
            "model": {
                "head": case.head,
                "checkpoint": shipped(case.head),
                "precision": case.arithmetic,
            },
            "database": {"uri": SHAPES_DATABASE},
            "conditioning": {"mode": "unconditional", "k_nn": K_NN},
            "sampling": case.sampling(guidance_scale).model_dump()
            | {"num_samples": num_samples, "seed": case.seed, "batch_size": _BATCH},
            "output": {"uri": "not-written", "shard_size": _BATCH},
        }
    )
    batches = rdm_batch.generate(job)
    parts = [next(batches).images]
    begin = time.process_time()
    parts += [batch.images for batch in batches]
    seconds = time.process_time() - begin
    return np.concatenate(parts), seconds / (num_samples - _BATCH)


def measure_cases(
    cases: Iterable[Case],
    num_samples: int,
    guidance_scale: float,
    recorder: Recorder,
    more: Callable[[Case, float], Details] | None = None,
) -> None:
    """Draw, score and record one case after the other; all are compared with a head's first.

    Args:
        cases: What to draw.
        num_samples: Of every set.
        guidance_scale: Where a case has none of its own.
        recorder: Keeps every case as soon as it is measured.
        more: Gives further details of a case, from its CPU seconds an image.
    """
    extractor = load_extractor(ExtractorSpec(name="shapes-clip"))
    reference = ReferenceStatistics.load(local_path("package://shapes/reference.npz"))
    first: dict[str, tuple[np.ndarray, float]] = {}
    for case in cases:
        images, seconds = draw_images(case, num_samples, guidance_scale)
        layers = [extractor.extract(part) for part in np.array_split(images, 32)]
        features = FeatureSet(
            extractor.description,
            np.arange(num_samples),
            {name: np.concatenate([part[name] for part in layers]) for name in layers[0]},
            "benchmark",
        )
        scores = compute_scores(features, reference, _SCORES)
        first_images, first_seconds = first.setdefault(case.head, (images, seconds))
        difference = np.abs(images.astype(int) - first_images).mean()
        row = Row(
            name=f"{case.describe()}, {case.arithmetic}",
            value=1e3 * seconds,
            unit="CPU ms/image",
            baseline=None if images is first_images else 1e3 * first_seconds,
            details={name: score.value for name, score in zip(_SCORES, scores, strict=True)}
            | {
                "fid +-": scores[0].uncertainty,
                "bytes from first": float(difference),
            }
            | (more(case, seconds) if more else {}),
        )
        settings = {"samples": num_samples, "guidance_scale": guidance_scale, "k_nn": K_NN}
        recorder.add("sets", [row], settings, [_COLUMNS])


def parse(
    document: str | None, argv: list[str] | None, guidance_scale: float = 1.5
) -> argparse.Namespace:
    """Read the options of a benchmark that draws sets, and keep to one thread."""
    parser = parser_of(document)
    parser.add_argument("--samples", type=int, default=1024, help="at least 64")
    parser.add_argument("--guidance-scale", type=float, default=guidance_scale)
    torch.set_num_threads(1)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, cases: Iterable[Case] = CASES) -> None:
    """Draw and score every case."""
    args = parse(__doc__, argv)
    recorder = Recorder(
        "heads.samplers",
        "Samplers in the shapes world",
        "Sets of the shipped heads on one CPU thread, scored by the shipped extractor and "
        "reference. The second row differs from the first by the seed alone.",
        args.json,
        BASELINE,
    )
    measure_cases(cases, args.samples, args.guidance_scale, recorder)


if __name__ == "__main__":
    run(main)
