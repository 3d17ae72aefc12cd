"""The ``sampling`` part of a job file: how many samples, and how each is drawn.

A sampler is declared by its class here; what implements it is keyed by its name in
``sampling.samplers``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, NamedTuple

from pydantic import Field, model_validator

from rdm_batch.specs.base import Spec, members
from rdm_batch.specs.weights import WeightsSpec

MAX_SAMPLES = 1_000_000_000
"""Samples of a set: a plan, a listing and a resume of so many were measured, of more not."""
MAX_SHARD_SAMPLES = 100_000
"""Samples of a shard, which a head holds in memory as a whole."""
Process = Literal["diffusion", "autoregressive", "mask_replace", "none"]
"""What a sampler solves, and which heads it therefore drives."""


class SamplerColumns(NamedTuple):
    """Settings of a sampler that are recorded beside every sample; None where it has none."""

    num_steps: int | None = None
    eta: float | None = None


_NoiseLevel = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False, strict=True)]


class AutoguidanceSpec(WeightsSpec):
    """A weaker head of the same latents to guide away from (Karras et al. 2024, arXiv:2406.02507).

    One trained for fewer steps, a smaller one, or one without neighbors; its autoencoder and its
    noise schedule are those of the head.
    """

    scale: Annotated[float, Field(gt=1, le=100, allow_inf_nan=False)] = Field(
        description="s in e_weak + s (e - e_weak), of predicted noise."
    )


class _Sampling(Spec):
    process: ClassVar[Process]

    num_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = Field(
        description="Images in the finished set."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="With the sample index, the only source of randomness."
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=32,
        description="Samples a head computes at once. Shards are computed in fixed batches, and "
        "float sums depend on their shape, so it belongs to what defines the samples.",
    )
    guidance_scale: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = Field(
        default=1.0, description="Classifier-free guidance; 1 is none."
    )

    @property
    def columns(self) -> SamplerColumns:
        """What is recorded of the sampler beside every sample."""
        return SamplerColumns()


class DiffusionSampling(_Sampling):
    """What all samplers of diffusion heads are told."""

    process: ClassVar[Process] = "diffusion"

    num_steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=50, description="Solver steps; each is one network evaluation (two with guidance)."
    )
    timesteps: Literal["even", "published"] = Field(
        default="even",
        description="`even`: exactly num_steps times. `published`: the authors' rule, "
        "`range(0, 1000, 1000 // num_steps) + 1`, which can take more steps than asked for.",
    )
    guidance_interval: Annotated[tuple[_NoiseLevel, _NoiseLevel], Field(strict=False)] | None = (
        Field(
            default=None,
            description="`[lo, hi]`: guide only where lo < sigma <= hi, and evaluate one branch "
            "elsewhere (Kynkäänniemi et al. 2024, arXiv:2404.07724). sigma is the noise of the "
            "latents by their signal, sqrt((1 - a) / a) of the schedule's cumulative product a, "
            "0.04 to 84 for the published 256 x 256 heads. None guides every step.",
        )
    )
    autoguidance: AutoguidanceSpec | None = Field(
        default=None,
        description="Guide away from the prediction of a weaker head, in place of "
        "`guidance_scale`. None: do not.",
    )
    reuse_deep_features: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1,
        description="Evaluate the whole UNet at every N-th step only, and between them its first "
        "and last block around the deep features of the step before (DeepCache, Ma et al. 2023, "
        "arXiv:2312.00858). 1 evaluates all of it at every step.",
    )

    @model_validator(mode="after")
    def _guidance_fits(self) -> DiffusionSampling:
        guided = self.guidance_scale > 1
        if self.autoguidance is not None and guided:
            raise ValueError(
                "guidance_scale and autoguidance exclude each other; set guidance_scale to 1"
            )
        if self.guidance_interval is None:
            return self
        low, high = self.guidance_interval
        if low >= high:
            raise ValueError(
                f"guidance_interval holds no noise level between {low:g} and {high:g}; "
                "the first number is the smaller one"
            )
        if not guided and self.autoguidance is None:
            raise ValueError(
                "guidance_interval limits guidance, but there is none: guidance_scale is 1 and "
                "autoguidance is not set"
            )
        return self

    @property
    def columns(self) -> SamplerColumns:
        """What is recorded of the sampler beside every sample."""
        return SamplerColumns(self.num_steps)


class DdimSampling(DiffusionSampling):
    """DDIM (Song et al. 2021, arXiv:2010.02502)."""

    sampler: Literal["ddim"] = Field(description="DDIM.")
    eta: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Share of fresh noise: 0 deterministic, 1 ancestral."
    )

    @property
    def columns(self) -> SamplerColumns:
        """What is recorded of the sampler beside every sample."""
        return SamplerColumns(self.num_steps, self.eta)


class PlmsSampling(DiffusionSampling):
    """PLMS (Liu et al. 2022, arXiv:2202.09778)."""

    sampler: Literal["plms"] = Field(description="Pseudo linear multistep.")


class DpmSolverSampling(DiffusionSampling):
    """DPM-Solver++ 2M (Lu et al. 2022, arXiv:2211.01095)."""

    sampler: Literal["dpm_solver_pp"] = Field(description="DPM-Solver++ (2M, multistep).")


class AutoregressiveSampling(_Sampling):
    """Draw tokens one after the other."""

    process: ClassVar[Process] = "autoregressive"

    sampler: Literal["autoregressive"] = Field(description="Token by token, for `head: rarm`.")
    temperature: Annotated[float, Field(gt=0, le=100)] = Field(
        default=1.0, description="Divides the logits before drawing."
    )
    top_k: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Keep the k largest logits. None keeps all."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Keep the smallest set with this probability. None keeps all."
    )


class MaskReplaceSampling(_Sampling):
    """Set all codes of an image together, in steps (Gu et al. 2022, arXiv:2111.14822)."""

    process: ClassVar[Process] = "mask_replace"

    sampler: Literal["mask_replace"] = Field(
        description="From masks to codes, for `head: knn_diffusion`, `backbone: discrete`."
    )
    num_steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=25,
        description="Network evaluations (guided ones are twice as large), at most the times of "
        "the head's forward process, mostly 100.",
    )
    truncation: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Keep the most likely codes up to this cumulative share of every prediction. "
        "1 keeps all; published samples use 0.86.",
    )
    purity: Annotated[float, Field(ge=0, le=100)] | None = Field(
        default=None,
        description="Set the codes first of which the network is surest, for good, sharpened by "
        "this factor (Tang et al. 2022, arXiv:2205.16007). None draws from the posterior.",
    )
    plausibility: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Guide only among codes that are, given the context, at least this times as "
        "likely as the likeliest (Li et al. 2023, arXiv:2210.15097). 0 guides among all, as "
        "published: guidance of 3 and more then lifts codes that hardly ever fit.",
    )

    @model_validator(mode="after")
    def _guidance_is_limited(self) -> MaskReplaceSampling:
        if self.plausibility > 0 and self.guidance_scale == 1:
            raise ValueError("plausibility limits guidance, but there is none: guidance_scale is 1")
        return self

    @property
    def columns(self) -> SamplerColumns:
        """What is recorded of the sampler beside every sample."""
        return SamplerColumns(self.num_steps)


class NoSampling(_Sampling):
    """For the head without a network, which has nothing to solve."""

    process: ClassVar[Process] = "none"

    sampler: Literal["none"] = Field(description="For `head: noise`.")


SamplingSpec = Annotated[
    DdimSampling
    | PlmsSampling
    | DpmSolverSampling
    | AutoregressiveSampling
    | MaskReplaceSampling
    | NoSampling,
    Field(discriminator="sampler"),
]
SAMPLERS: Final = members(SamplingSpec, "sampler")
"""Every sampler by its name in a job file."""


def samplers_of(process: Process) -> tuple[str, ...]:
    """Name the samplers that solve a process."""
    return tuple(name for name, spec in SAMPLERS.items() if spec.process == process)
