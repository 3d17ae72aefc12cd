"""The ``model`` part of a job file: which decoding head, and its weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rdm_batch.specs.base import Spec, Uri


class _WeightedModel(Spec):
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
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Arithmetic of the head."
    )
    compile: bool = Field(
        default=False,
        description="Run the head through `torch.compile`: slower to start, faster afterwards.",
    )
    cpu_threads: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="Threads of a head that computes on CPU. The number of threads changes the "
        "last digits of float sums, so it belongs to what defines the samples.",
    )

    @model_validator(mode="after")
    def _one_architecture(self) -> _WeightedModel:
        if self.preset is not None and self.architecture is not None:
            raise ValueError("preset and architecture exclude each other; keep one of them")
        return self


class RdmModel(_WeightedModel):
    """A retrieval-augmented latent diffusion head."""

    head: Literal["rdm"] = Field(description="Retrieval-augmented diffusion.")


class RarmModel(_WeightedModel):
    """A retrieval-augmented autoregressive head."""

    head: Literal["rarm"] = Field(description="Retrieval-augmented autoregression.")


class NullModel(Spec):
    """A head without a network: images straight from noise, to measure the pipeline alone."""

    head: Literal["noise"] = Field(description="No model work; measures the pipeline.")
    image_size: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=32, description="Height and width of the images, pixels."
    )
    cpu_threads: Annotated[int, Field(ge=1)] = Field(
        default=1, description="As for the other heads."
    )


ModelSpec = Annotated[RdmModel | RarmModel | NullModel, Field(discriminator="head")]
