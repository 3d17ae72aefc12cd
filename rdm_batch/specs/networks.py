"""Sizes of the networks of heads and small encoders, and of the noise schedule."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from rdm_batch.specs.later import LaterFields

# An architecture may come out of a weights file: what nothing real needs is refused before a
# network of a million layers is built to find out that the weights do not fit it.
MAX_WIDTH = 1 << 16
_Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
_Count = Annotated[int, Field(gt=0, le=1 << 24)]
_Steps = Annotated[int, Field(gt=0, le=1_000_000)]
_Depth = Annotated[int, Field(gt=0, le=256)]
_Levels = Annotated[tuple[Annotated[int, Field(gt=0, le=1 << 12)], ...], Field(max_length=12)]
_Resolutions = Annotated[tuple[_Width, ...], Field(max_length=12)]
MAX_BLOCKS = 512
"""The largest published network has 70 blocks, of layers or attention."""


class Sizes(BaseModel):
    """Base of everything an architecture is made of: immutable, and no field it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UNetConfig(Sizes, LaterFields):
    """Size the noise-predicting UNet of a diffusion head."""

    later: ClassVar[tuple[str, ...]] = ("source_channels",)

    latent_channels: _Width = Field(default=3, description="Channels of the latents, in and out.")
    source_channels: Annotated[int, Field(ge=0, le=MAX_WIDTH)] = Field(
        default=0,
        description="Channels of a given picture's latents beside the noisy ones, for heads that "
        "edit. 0: the head is given no picture.",
    )
    model_channels: _Width = Field(description="Channels at the highest resolution.")
    channel_mult: _Levels = Field(
        min_length=1, description="Channel multiplier of every level, highest resolution first."
    )
    num_res_blocks: _Depth = Field(default=2, description="Residual blocks a level, going down.")
    attention_downsampling: _Levels = Field(
        description="Downsampling factors at which transformers are placed."
    )
    head_channels: _Width = Field(default=32, description="Channels of one attention head.")
    transformer_depth: _Depth = Field(default=1, description="Transformer blocks a place.")
    context_dim: _Width = Field(description="Width of the neighbor embeddings.")
    norm_groups: _Width = Field(default=32, description="Groups of every group normalization.")

    @model_validator(mode="after")
    def _sizes_divide(self) -> UNetConfig:
        blocks = len(self.channel_mult) * (2 * self.num_res_blocks + 1)
        _check_blocks(blocks * (1 + self.transformer_depth))
        if self.model_channels % 2:
            raise ValueError(f"model_channels {self.model_channels} is odd; needed an even number")
        for mult in self.channel_mult:
            width = mult * self.model_channels
            _check_width(width)
            for name in ("norm_groups", "head_channels"):
                if width % getattr(self, name):
                    raise ValueError(
                        f"{width} channels (model_channels {self.model_channels} x {mult}) are "
                        f"not a multiple of {name} {getattr(self, name)}"
                    )
        return self


class _AutoencoderConfig(Sizes):
    """Size the convolutional encoder and decoder both kinds of autoencoder share."""

    channels: _Width = Field(description="Channels at image resolution.")
    channel_mult: _Levels = Field(
        min_length=1, description="Channel multiplier of every level, image resolution first."
    )
    num_res_blocks: _Depth = Field(default=2, description="Residual blocks a level, going down.")
    resolution: _Width = Field(
        description="Image side length by which attention is placed; other sizes are accepted."
    )
    attention_resolutions: _Resolutions = Field(
        default=(), description="Side lengths, at `resolution`, whose levels get attention."
    )
    image_channels: _Width = Field(default=3, description="Channels of the images.")
    latent_channels: _Width = Field(description="Channels between encoder and decoder.")
    embed_dim: _Width = Field(description="Channels of the latents the head works on.")
    norm_groups: _Width = Field(default=32, description="Groups of every group normalization.")

    @model_validator(mode="after")
    def _groups_divide(self) -> _AutoencoderConfig:
        _check_blocks(2 * len(self.channel_mult) * (self.num_res_blocks + 1))
        for mult in self.channel_mult:
            _check_width(mult * self.channels)
            if mult * self.channels % self.norm_groups:
                raise ValueError(
                    f"{mult * self.channels} channels (channels {self.channels} x {mult}) are "
                    f"not a multiple of norm_groups {self.norm_groups}"
                )
        return self

    @property
    def downsampling(self) -> int:
        """Image side length over latent side length."""
        return int(2 ** (len(self.channel_mult) - 1))


class VqAutoencoderConfig(_AutoencoderConfig):
    """Size an autoencoder whose latents are quantized to a codebook."""

    kind: Literal["vq"] = "vq"
    codebook_size: _Count = Field(description="Number of code words.")


class KlAutoencoderConfig(_AutoencoderConfig):
    """Size an autoencoder whose encoder gives mean and log-variance of the latents."""

    kind: Literal["kl"] = "kl"


AutoencoderConfig = Annotated[
    VqAutoencoderConfig | KlAutoencoderConfig, Field(discriminator="kind")
]


class NoiseScheduleConfig(Sizes):
    """State the forward process: betas evenly spaced in their square root."""

    num_train_steps: _Steps = Field(default=1000, description="Steps of the forward process.")
    linear_start: PositiveFloat = Field(default=0.0015, description="First beta.")
    linear_end: PositiveFloat = Field(default=0.0195, lt=1, description="Last beta.")

    def betas(self) -> list[float]:
        """Space the square roots of the betas evenly (Rombach et al. 2022, arXiv:2112.10752)."""
        # As numpy.linspace, without numpy: what reads a spec is to start at once.
        first, last = self.linear_start**0.5, self.linear_end**0.5
        step = (last - first) / max(self.num_train_steps - 1, 1)
        roots = [first + number * step for number in range(self.num_train_steps)]
        if self.num_train_steps > 1:
            roots[-1] = last
        return [root * root for root in roots]


class TransformerConfig(Sizes):
    """Size the causal transformer of an autoregressive head."""

    vocabulary_in: _Count = Field(
        description="Rows of the token embedding: codes and special tokens."
    )
    vocabulary_out: _Count = Field(description="Codes the transformer chooses among.")
    depth: _Depth = Field(description="Number of transformer blocks.")
    num_heads: _Width = Field(description="Heads of every attention.")
    head_channels: _Width = Field(default=64, description="Channels of one attention head.")
    context_dim: _Width = Field(description="Width of the neighbor embeddings.")
    num_positions: _Width = Field(
        description="Longest sequence, and tokens of an image: a square, row by row."
    )

    @model_validator(mode="after")
    def _width_fits(self) -> TransformerConfig:
        _check_width(self.width)
        return self

    @property
    def width(self) -> int:
        """Channels of the sequence."""
        return self.num_heads * self.head_channels


class CodeTransformerConfig(Sizes):
    """Size the transformer of a mask-and-replace diffusion head."""

    codebook_size: _Count = Field(description="Codes it chooses among; the mask is one more.")
    depth: _Depth = Field(description="Number of transformer blocks.")
    num_heads: _Width = Field(description="Heads of every attention.")
    head_channels: _Width = Field(default=64, description="Channels of one attention head.")
    context_dim: _Width = Field(description="Width of the context's entries.")
    grid_size: _Depth = Field(description="Side length of the grid of codes.")
    num_times: Annotated[int, Field(ge=2, le=1_000_000)] = Field(
        default=100, description="Times of the forward process."
    )
    expansion: _Depth = Field(
        default=4, description="Width of the feed-forward layers, in widths of the sequence."
    )
    marks_query: bool = Field(
        default=False,
        description="Whether the context's first entry is a query, told from the neighbors after "
        "it by a learned vector each.",
    )
    gelu: Literal["exact", "sigmoid"] = Field(
        default="exact",
        description="The feed-forward layers' activation: GELU, or x sigmoid(1.702 x) as in "
        "published VQ-Diffusion checkpoints.",
    )

    @model_validator(mode="after")
    def _width_fits(self) -> CodeTransformerConfig:
        _check_width(self.width)
        return self

    @property
    def width(self) -> int:
        """Channels of the sequence."""
        return self.num_heads * self.head_channels

    @property
    def num_positions(self) -> int:
        """Codes of an image."""
        return self.grid_size**2


def _check_width(width: int) -> None:
    if width > MAX_WIDTH:
        raise ValueError(f"it is {width:,} channels wide; needed at most {MAX_WIDTH:,}")


def _check_blocks(count: int) -> None:
    if count > MAX_BLOCKS:
        raise ValueError(f"it has {count:,} blocks; needed at most {MAX_BLOCKS:,}")


class ClipSizes(BaseModel):
    """Size a contrastive image and text encoder.

    The networks are open_clip's: a residual network for images, a transformer for texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embed_dim: _Width = Field(default=64, description="Width of the shared embedding space.")
    image_size: _Width = Field(default=32, description="Side of the square input, in pixels.")
    vision_width: _Width = Field(
        default=14, description="Channels of the image network's first level."
    )
    vision_layers: tuple[_Depth, _Depth, _Depth, _Depth] = Field(
        default=(1, 1, 1, 1), description="Blocks of the image network's four levels."
    )
    text_width: _Width = Field(default=64, description="Width of the text transformer.")
    text_layers: _Depth = Field(default=2, description="Blocks of the text transformer.")
    head_width: _Width = Field(default=32, description="Width of one attention head, both towers.")
    context_length: int = Field(
        default=24, gt=2, le=1 << 16, description="Longest text in words, with both ends."
    )


class ClipArchitecture(ClipSizes):
    """Describe a small encoder, as stored with its weights.

    Texts are split into words instead of byte pairs, which keeps the embedding table, and
    with it the weights file, small.
    """

    kind: Literal["clip"] = "clip"
    name: str = Field(min_length=1, description="Name of the encoder, recorded in databases.")
    vocabulary: tuple[str, ...] = Field(min_length=1, description="Known words, lower case.")
