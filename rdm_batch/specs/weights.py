"""Which weights are meant, wherever a job names some."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from rdm_batch.specs.base import Spec, Uri


class WeightsSpec(Spec):
    """Name weights of a head and, where their file does not carry it, their architecture."""

    checkpoint: Uri = Field(
        description="Weights: safetensors of this package, a Lightning `.ckpt`, or a plain "
        "state dict. Pickled code in a file is never executed."
    )
    preset: str | None = Field(
        default=None,
        description="Name of a published architecture, for checkpoints that do not carry "
        "their own: `rdm-imagenet-256`, `rdm-ffhq-256`, `rdm-768`, `rarm-imagenet-256`.",
    )
    architecture: dict[str, Any] | Uri | None = Field(
        default=None,
        description="The architecture itself, or the URI of a YAML file with it; the published "
        "`config.yaml` format is understood. Leave out when the checkpoint carries it.",
    )
    weights: Literal["ema", "raw"] = Field(
        default="ema",
        description="Which copy of the weights to sample with, where a checkpoint has both.",
    )

    @model_validator(mode="after")
    def _one_architecture(self) -> WeightsSpec:
        if self.preset is not None and self.architecture is not None:
            raise ValueError("preset and architecture exclude each other; keep one of them")
        return self
