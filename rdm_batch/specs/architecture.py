"""Sizes of the decoding heads, and how the published configuration files state them.

An architecture says everything that is needed to build the networks and nothing about
where the weights come from or how samples are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from rdm_batch.errors import SpecError
from rdm_batch.specs.messages import problems_of


class _Sizes(BaseModel):
    """Base of every architecture model: immutable, and no field it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UNetConfig(_Sizes):
    """Size the noise-predicting UNet of a diffusion head."""

    latent_channels: PositiveInt = Field(
        default=3, description="Channels of the latents, in and out."
    )
    model_channels: PositiveInt = Field(description="Channels at the highest resolution.")
    channel_mult: tuple[PositiveInt, ...] = Field(
        min_length=1, description="Channel multiplier of every level, highest resolution first."
    )
    num_res_blocks: PositiveInt = Field(
        default=2, description="Residual blocks a level, going down."
    )
    attention_downsampling: tuple[PositiveInt, ...] = Field(
        description="Downsampling factors at which transformers are placed."
    )
    head_channels: PositiveInt = Field(default=32, description="Channels of one attention head.")
    transformer_depth: PositiveInt = Field(default=1, description="Transformer blocks a place.")
    context_dim: PositiveInt = Field(description="Width of the neighbor embeddings.")
    norm_groups: PositiveInt = Field(default=32, description="Groups of every group normalization.")

    @model_validator(mode="after")
    def _sizes_divide(self) -> UNetConfig:
        if self.model_channels % 2:
            raise ValueError(f"model_channels {self.model_channels} is odd; needed an even number")
        for mult in self.channel_mult:
            width = mult * self.model_channels
            for name in ("norm_groups", "head_channels"):
                if width % getattr(self, name):
                    raise ValueError(
                        f"{width} channels (model_channels {self.model_channels} x {mult}) are "
                        f"not a multiple of {name} {getattr(self, name)}"
                    )
        return self


class _AutoencoderConfig(_Sizes):
    """Size the convolutional encoder and decoder both kinds of autoencoder share."""

    channels: PositiveInt = Field(description="Channels at image resolution.")
    channel_mult: tuple[PositiveInt, ...] = Field(
        min_length=1, description="Channel multiplier of every level, image resolution first."
    )
    num_res_blocks: PositiveInt = Field(
        default=2, description="Residual blocks a level, going down."
    )
    resolution: PositiveInt = Field(
        description="Image side length by which attention is placed; other sizes are accepted."
    )
    attention_resolutions: tuple[PositiveInt, ...] = Field(
        default=(), description="Side lengths, at `resolution`, whose levels get attention."
    )
    image_channels: PositiveInt = Field(default=3, description="Channels of the images.")
    latent_channels: PositiveInt = Field(description="Channels between encoder and decoder.")
    embed_dim: PositiveInt = Field(description="Channels of the latents the head works on.")
    norm_groups: PositiveInt = Field(default=32, description="Groups of every group normalization.")

    @model_validator(mode="after")
    def _groups_divide(self) -> _AutoencoderConfig:
        for mult in self.channel_mult:
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
    codebook_size: PositiveInt = Field(description="Number of code words.")


class KlAutoencoderConfig(_AutoencoderConfig):
    """Size an autoencoder whose encoder gives mean and log-variance of the latents."""

    kind: Literal["kl"] = "kl"


AutoencoderConfig = Annotated[
    VqAutoencoderConfig | KlAutoencoderConfig, Field(discriminator="kind")
]


class NoiseScheduleConfig(_Sizes):
    """State the forward process: betas evenly spaced in their square root."""

    num_train_steps: PositiveInt = Field(default=1000, description="Steps of the forward process.")
    linear_start: PositiveFloat = Field(default=0.0015, description="First beta.")
    linear_end: PositiveFloat = Field(default=0.0195, lt=1, description="Last beta.")


class RdmArchitecture(_Sizes):
    """Describe a retrieval-augmented latent diffusion head."""

    kind: Literal["rdm"] = "rdm"
    unet: UNetConfig
    autoencoder: AutoencoderConfig
    noise_schedule: NoiseScheduleConfig = NoiseScheduleConfig()
    latent_size: PositiveInt = Field(description="Side length of the latents.")
    scale_factor: PositiveFloat = Field(
        default=1.0, description="Latents of the head are encoder latents times this."
    )
    parametric: bool = Field(
        default=False,
        description="Whether this is a baseline that never sees neighbors: its context is zero.",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> RdmArchitecture:
        if self.unet.latent_channels != self.autoencoder.embed_dim:
            raise ValueError(
                f"unet.latent_channels is {self.unet.latent_channels} but "
                f"autoencoder.embed_dim is {self.autoencoder.embed_dim}; they must be equal"
            )
        smallest = 2 ** (len(self.unet.channel_mult) - 1)
        if self.latent_size % smallest:
            raise ValueError(
                f"latent_size {self.latent_size} is not a multiple of {smallest}, the "
                "downsampling of the UNet's lowest level"
            )
        return self

    @property
    def image_size(self) -> int:
        """Side length of the images."""
        return self.latent_size * self.autoencoder.downsampling

    @property
    def context_dim(self) -> int:
        """Width of the neighbor embeddings."""
        return self.unet.context_dim

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one sample's latents."""
        return (self.unet.latent_channels, self.latent_size, self.latent_size)


class TransformerConfig(_Sizes):
    """Size the causal transformer of an autoregressive head."""

    vocabulary_in: PositiveInt = Field(
        description="Rows of the token embedding: codes and special tokens."
    )
    vocabulary_out: PositiveInt = Field(description="Codes the transformer chooses among.")
    depth: PositiveInt = Field(description="Number of transformer blocks.")
    num_heads: PositiveInt = Field(description="Heads of every attention.")
    head_channels: PositiveInt = Field(default=64, description="Channels of one attention head.")
    context_dim: PositiveInt = Field(description="Width of the neighbor embeddings.")
    num_positions: PositiveInt = Field(
        description="Longest sequence, and tokens of an image: a square, row by row."
    )

    @property
    def width(self) -> int:
        """Channels of the sequence."""
        return self.num_heads * self.head_channels


class RarmArchitecture(_Sizes):
    """Describe a retrieval-augmented autoregressive head."""

    kind: Literal["rarm"] = "rarm"
    transformer: TransformerConfig
    autoencoder: VqAutoencoderConfig
    start_token: Annotated[int, Field(ge=0)] = Field(
        description="Token every sequence starts with."
    )
    parametric: bool = Field(
        default=False,
        description="Whether this is a baseline that never sees neighbors: its context is zero.",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> RarmArchitecture:
        if self.transformer.vocabulary_out != self.autoencoder.codebook_size:
            raise ValueError(
                f"transformer.vocabulary_out is {self.transformer.vocabulary_out} but "
                f"autoencoder.codebook_size is {self.autoencoder.codebook_size}; they must be equal"
            )
        if self.start_token >= self.transformer.vocabulary_in:
            raise ValueError(
                f"start_token {self.start_token} is not below transformer.vocabulary_in "
                f"{self.transformer.vocabulary_in}"
            )
        if math.isqrt(self.transformer.num_positions) ** 2 != self.transformer.num_positions:
            raise ValueError(
                f"transformer.num_positions {self.transformer.num_positions} is not a square number"
            )
        return self

    @property
    def latent_size(self) -> int:
        """Side length of the grid of tokens."""
        return math.isqrt(self.transformer.num_positions)

    @property
    def image_size(self) -> int:
        """Side length of the images."""
        return self.latent_size * self.autoencoder.downsampling

    @property
    def context_dim(self) -> int:
        """Width of the neighbor embeddings."""
        return self.transformer.context_dim


Architecture = Annotated[RdmArchitecture | RarmArchitecture, Field(discriminator="kind")]

_ADAPTER: TypeAdapter[Architecture] = TypeAdapter(Architecture)


def parse_architecture(source: str | bytes | Mapping[str, Any], where: str) -> Architecture:
    """Read an architecture from its JSON text or its fields.

    Args:
        source: JSON text (as stored in a weights file) or a mapping of fields.
        where: What to name in the error: a file or a place in a job file.

    Raises:
        SpecError: A field is missing, unknown or does not fit the others.
    """
    try:
        if isinstance(source, str | bytes):
            return _ADAPTER.validate_json(source)
        return _ADAPTER.validate_python(dict(source))
    except ValidationError as error:
        document = None if isinstance(source, str | bytes) else source
        problems = problems_of(error, Architecture, document, "architecture")
        found = "; ".join(map(str, problems))
        raise SpecError(where, found, "a valid architecture") from error
