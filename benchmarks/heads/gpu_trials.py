"""What the GPU benchmark tries, in order of worth, with what was predicted before anything ran."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from rdm_batch.specs.precisions import Precision
from rdm_batch.specs.sampling import (
    AutoregressiveSampling,
    DdimSampling,
    DpmSolverSampling,
    SamplingSpec,
)

GUIDANCE = 2.0
STEPS = 100
"""Steps that an image of a diffusion head is billed where the sampling is the published one."""

_CHEAPER: dict[str, dict[str, Any]] = {
    "20 steps of DPM-Solver++": {},
    "20 steps, guided from 0.3 to 5": {"guidance_interval": (0.3, 5.0)},
    "20 steps, guided from 0.3 to 5, deep features every 2": {
        "guidance_interval": (0.3, 5.0),
        "reuse_deep_features": 2,
    },
}


@dataclass(frozen=True)
class Trial:
    """One row to measure.

    Attributes:
        preset: Architecture of the networks.
        what: ``published``: the published procedure. ``step``: the UNet's evaluation alone,
            billed ``STEPS`` times. ``generate``: all of ``generate()`` with the samples' own
            noise. ``decode``: latents or codes to images.
        precision: Arithmetic of the networks.
        batch: Samples at once.
        how: ``eager``; ``compiled`` without CUDA graphs; ``graphs``, compiled and recorded, which
            is what ``model.compile`` does on a GPU.
        sampling: ``published``, or a cheaper one by its name.
        seconds: What the row is expected to take on an H200, compiling and a first run included.
        predicted: Least and most images a second on an H200, from counted work.
    """

    preset: str
    what: Literal["published", "step", "generate", "decode"]
    precision: Precision
    batch: int
    how: Literal["eager", "compiled", "graphs"] = "eager"
    sampling: str = "published"
    seconds: float = 10.0
    predicted: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """Say what is measured, in words that tell rows apart."""
        words = {"published": "published procedure", "step": "UNet alone", "decode": "decoding"}
        parts = [
            words.get(self.what, "generate()"),
            self.how,
            self.precision,
            f"batch {self.batch}",
        ]
        return ", ".join([*parts, *([self.sampling] if self.sampling != "published" else [])])

    def spec(self, num_steps: int | None = None) -> SamplingSpec:
        """Give the sampling part of a job that draws this way.

        Args:
            num_steps: Of a diffusion head, in place of the trial's own.
        """
        if self.preset.startswith("rarm"):
            return AutoregressiveSampling(
                sampler="autoregressive",
                num_samples=self.batch,
                guidance_scale=GUIDANCE,
                top_k=256,
            )
        if self.sampling == "published":
            return DdimSampling(
                sampler="ddim",
                num_samples=self.batch,
                num_steps=num_steps or STEPS,
                eta=1.0,
                guidance_scale=GUIDANCE,
            )
        settings = {
            "num_steps": num_steps or 20,
            "guidance_scale": GUIDANCE,
            **_CHEAPER[self.sampling],
        }
        return DpmSolverSampling.model_validate(
            {"sampler": "dpm_solver_pp", "num_samples": self.batch, **settings}
        )


def trials(presets: list[str]) -> Iterator[Trial]:
    """List what is tried, what is cheap and tells most first.

    Predictions are those of the arithmetic for one H200: counted operations at 550 (convolutions),
    600 (linear layers) and 250 TFLOP/s (attention) in 16 bits, memory at 3.8 TB/s.
    """
    for make in (_eager, _graphs, _larger):
        for preset in presets:
            yield from make(preset)


def _eager(preset: str) -> Iterator[Trial]:
    if preset == "rdm-imagenet-256":
        yield Trial(preset, "published", "float32", 64, seconds=15, predicted=(0.9, 1.2))
        yield Trial(preset, "step", "bfloat16", 64, seconds=10, predicted=(7.5, 9.5))
        yield Trial(preset, "decode", "bfloat16", 64, seconds=5, predicted=(350, 500))
        yield Trial(preset, "generate", "bfloat16", 64, seconds=20, predicted=(7, 9))
    elif preset == "rarm-imagenet-256":
        yield Trial(preset, "published", "float32", 64, seconds=25, predicted=(1.2, 2.4))
        yield Trial(preset, "generate", "bfloat16", 64, seconds=15)
        yield Trial(preset, "decode", "bfloat16", 64, seconds=5, predicted=(800, 1200))
        yield Trial(preset, "generate", "bfloat16", 256, seconds=20, predicted=(250, 295))
    else:
        yield Trial(preset, "published", "float32", 16, seconds=20)
        predicted = {"rdm-ffhq-256": (6.0, 8.0), "rdm-768": (2.2, 3.0)}.get(preset)
        yield Trial(preset, "step", "bfloat16", 16, seconds=15, predicted=predicted)


def _graphs(preset: str) -> Iterator[Trial]:
    if preset == "rdm-imagenet-256":
        yield Trial(preset, "step", "bfloat16", 64, "graphs", seconds=120, predicted=(8.7, 12.1))
        yield Trial(preset, "generate", "bfloat16", 64, "graphs", seconds=20, predicted=(8.5, 11.8))
        yield Trial(preset, "decode", "bfloat16", 64, "graphs", seconds=5, predicted=(420, 600))
    elif preset == "rarm-imagenet-256":
        yield Trial(preset, "generate", "bfloat16", 64, "graphs", seconds=60, predicted=(115, 140))
        yield Trial(preset, "generate", "bfloat16", 256, "graphs", seconds=60, predicted=(205, 330))
    else:
        predicted = {"rdm-ffhq-256": (7.0, 9.6), "rdm-768": (2.8, 3.8)}.get(preset)
        yield Trial(preset, "step", "bfloat16", 16, "graphs", seconds=150, predicted=predicted)


def _larger(preset: str) -> Iterator[Trial]:
    if not preset.startswith("rdm-imagenet"):
        return
    yield Trial(preset, "step", "float32", 64, seconds=20, predicted=(0.9, 1.3))
    yield Trial(preset, "step", "tf32", 64, seconds=10, predicted=(3.0, 6.0))
    yield Trial(preset, "step", "float16", 64, seconds=10, predicted=(7.5, 9.5))
    for batch in (128, 256):
        yield Trial(preset, "step", "bfloat16", batch, seconds=15, predicted=(7.7, 10.0))
    expected = {0: (39.0, 52.0), 1: (50.0, 68.0), 2: (80.0, 120.0)}
    for place, sampling in enumerate(_CHEAPER):
        predicted = expected[place]
        yield Trial(
            preset, "generate", "bfloat16", 64, "graphs", sampling, 60 + 40 * place, predicted
        )
    yield Trial(preset, "step", "bfloat16", 64, "compiled", seconds=90, predicted=(8.5, 12.0))
    for batch in (128, 256):
        yield Trial(preset, "step", "bfloat16", batch, "graphs", seconds=120, predicted=(9.0, 12.4))
