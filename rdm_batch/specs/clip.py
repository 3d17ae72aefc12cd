"""The architecture of a small image and text encoder, as stored with its weights."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class ClipSizes(BaseModel):
    """Size a contrastive image and text encoder.

    The networks are open_clip's: a residual network for images, a transformer for texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embed_dim: int = Field(default=64, gt=0, description="Width of the shared embedding space.")
    image_size: int = Field(default=32, gt=0, description="Side of the square input, in pixels.")
    vision_width: int = Field(
        default=14, gt=0, description="Channels of the image network's first level."
    )
    vision_layers: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = Field(
        default=(1, 1, 1, 1), description="Blocks of the image network's four levels."
    )
    text_width: int = Field(default=64, gt=0, description="Width of the text transformer.")
    text_layers: int = Field(default=2, gt=0, description="Blocks of the text transformer.")
    head_width: int = Field(
        default=32, gt=0, description="Width of one attention head, both towers."
    )
    context_length: int = Field(
        default=24, gt=2, description="Longest text in words, with both ends."
    )


class ClipArchitecture(ClipSizes):
    """Describe a small encoder, as stored with its weights.

    Texts are split into words instead of byte pairs, which keeps the embedding table, and
    with it the weights file, small.
    """

    kind: Literal["clip"] = "clip"
    name: str = Field(min_length=1, description="Name of the encoder, recorded in databases.")
    vocabulary: tuple[str, ...] = Field(min_length=1, description="Known words, lower case.")
