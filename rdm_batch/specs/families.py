"""The families of decoding heads: what each is made of, and what a job says about it.

An architecture says everything that is needed to build the networks of a head and nothing
about where the weights come from or how samples are drawn. A family is declared by its two
classes here; what implements it is keyed by its id: ``models.networks.NETWORKS``,
``heads.build.HEADS``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from rdm_batch.errors import SpecError
from rdm_batch.specs.base import Spec, members, models_in
from rdm_batch.specs.messages import problems_of
from rdm_batch.specs.networks import (
    AutoencoderConfig,
    CodeTransformerConfig,
    NoiseScheduleConfig,
    Sizes,
    TransformerConfig,
    UNetConfig,
    VqAutoencoderConfig,
)
from rdm_batch.specs.precisions import Precision, describe_precisions
from rdm_batch.specs.sampling import Process
from rdm_batch.specs.weights import WeightsSpec


class RdmArchitecture(Sizes):
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
        given = self.unet.source_channels
        if given not in (0, self.unet.latent_channels):
            raise ValueError(
                f"unet.source_channels is {given}; a given picture has as many channels as the "
                f"latents, {self.unet.latent_channels}, or there is none"
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
    def edits(self) -> bool:
        """Tell whether the head was trained to make given pictures into others."""
        return self.unet.source_channels > 0

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one sample's latents."""
        return (self.unet.latent_channels, self.latent_size, self.latent_size)


class RarmArchitecture(Sizes):
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


class KnnDiscreteArchitecture(Sizes):
    """Describe a KNN-Diffusion head over codes (Sheynin et al. 2023, arXiv:2204.02849)."""

    kind: Literal["knn_discrete"] = "knn_discrete"
    transformer: CodeTransformerConfig
    autoencoder: VqAutoencoderConfig
    # Its query is what it cannot do without: a head with nothing but neighbors is RDM's kin.
    parametric: Literal[False] = False

    @model_validator(mode="after")
    def _parts_fit(self) -> KnnDiscreteArchitecture:
        if self.transformer.codebook_size != self.autoencoder.codebook_size:
            raise ValueError(
                f"transformer.codebook_size is {self.transformer.codebook_size} but "
                f"autoencoder.codebook_size is {self.autoencoder.codebook_size}; they must be equal"
            )
        if not self.transformer.marks_query:
            raise ValueError("transformer.marks_query is false; the query has a role of its own")
        return self

    @property
    def latent_size(self) -> int:
        """Side length of the grid of codes."""
        return self.transformer.grid_size

    @property
    def image_size(self) -> int:
        """Side length of the images."""
        return self.latent_size * self.autoencoder.downsampling

    @property
    def context_dim(self) -> int:
        """Width of the query and of the neighbor embeddings."""
        return self.transformer.context_dim


class KnnContinuousArchitecture(RdmArchitecture):
    """Describe a KNN-Diffusion head over latents: RDM's networks, and a role for the query."""

    kind: Literal["knn_continuous"] = "knn_continuous"  # type: ignore[assignment]
    parametric: Literal[False] = False


Architecture = Annotated[
    RdmArchitecture | RarmArchitecture | KnnDiscreteArchitecture | KnnContinuousArchitecture,
    Field(discriminator="kind"),
]


class WeightedModel(WeightsSpec):
    """What a job says about a head with weights, whatever its family.

    Attributes:
        family: Id of the family; the ``kind`` of its architecture.
        query_first: Whether the first entry of its context has to be the query.
    """

    family: ClassVar[str]
    query_first: ClassVar[bool] = False

    precision: Precision = Field(
        default="float32", description=f"Arithmetic of the head: {describe_precisions()}."
    )
    compile: bool = Field(
        default=False,
        description="Run the head through `torch.compile`, or on a CPU wide RARM in float32 "
        "through a kernel of this package: slower to start, faster afterwards.",
    )
    cpu_threads: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="Threads of a head that computes on CPU. The number of threads changes the "
        "last digits of float sums, so it belongs to what defines the samples.",
    )


class RdmModel(WeightedModel):
    """A retrieval-augmented latent diffusion head."""

    family: ClassVar[str] = "rdm"
    process: ClassVar[Process] = "diffusion"

    head: Literal["rdm"] = Field(description="Retrieval-augmented diffusion.")


class RarmModel(WeightedModel):
    """A retrieval-augmented autoregressive head."""

    family: ClassVar[str] = "rarm"
    process: ClassVar[Process] = "autoregressive"

    head: Literal["rarm"] = Field(description="Retrieval-augmented autoregression.")


class _KnnModel(WeightedModel):
    query_first: ClassVar[bool] = True

    head: Literal["knn_diffusion"] = Field(description="KNN-Diffusion.")


class KnnDiscreteModel(_KnnModel):
    """A KNN-Diffusion head over codes: a query and its neighbors, each in a role of its own."""

    family: ClassVar[str] = "knn_discrete"
    process: ClassVar[Process] = "mask_replace"

    backbone: Literal["discrete"] = Field(
        description="Mask-and-replace diffusion over the codes of an autoencoder."
    )


class KnnContinuousModel(_KnnModel):
    """A KNN-Diffusion head over latents: a query and its neighbors, each in a role of its own."""

    family: ClassVar[str] = "knn_continuous"
    process: ClassVar[Process] = "diffusion"

    backbone: Literal["continuous"] = Field(
        description="Diffusion over latents, as `head: rdm`; the query enters with the time too."
    )


class NullModel(Spec):
    """A head without a network: images straight from noise, to measure the pipeline alone."""

    family: ClassVar[str] = "noise"
    query_first: ClassVar[bool] = False
    process: ClassVar[Process] = "none"

    head: Literal["noise"] = Field(description="No model work; measures the pipeline.")
    image_size: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=32, description="Height and width of the images, pixels."
    )
    cpu_threads: Annotated[int, Field(ge=1)] = Field(
        default=1, description="As for the other heads."
    )


ModelSpec = Annotated[
    RdmModel
    | RarmModel
    | Annotated[KnnDiscreteModel | KnnContinuousModel, Field(discriminator="backbone")]
    | NullModel,
    Field(discriminator="head"),
]


_MODELS: tuple[Any, ...] = tuple(models_in(ModelSpec))
FAMILIES: Final[dict[str, Any]] = {model.family: model for model in _MODELS}
"""What a job says about a head of every family, by the family's id."""
ARCHITECTURES: Final = members(Architecture, "kind")
"""What a head of every family with networks is made of, by the family's id."""

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
