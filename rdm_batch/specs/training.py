"""Settings of the training commands, as written in their YAML files."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimization(_Frozen):
    """Settings of the training loop."""

    num_steps: int = Field(gt=0, description="Parameter updates.")
    batch_size: int = Field(gt=0, description="Images per update.")
    learning_rate: float = Field(gt=0, description="Highest rate, reached after the warmup.")
    final_rate: float = Field(0.02, ge=0, le=1, description="Last rate, as a share of the highest.")
    warmup_steps: int = Field(100, ge=0, description="Updates until the highest rate.")
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = Field((0.9, 0.99), description="AdamW's two decay rates.")
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of a gradient.")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="Memory of the averaged weights.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 computes the forward pass under autocast."
    )
    seed: int = Field(0, ge=0, description="Decides initial weights, order of images and noise.")
    log_every: int = Field(50, gt=0, description="Updates between progress lines.")
    checkpoint_every: int = Field(1000, gt=0, description="Updates between checkpoints.")
