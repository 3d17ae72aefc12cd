"""Settings of the training commands, as written in their YAML files.

What can be trained is declared by its class here; what trains it is keyed by its name in
``training.train``.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from rdm_batch.errors import InvalidJobError, SpecError
from rdm_batch.specs.base import Uri, members
from rdm_batch.specs.messages import problems_of
from rdm_batch.specs.networks import AutoencoderConfig, ClipSizes, NoiseScheduleConfig, UNetConfig
from rdm_batch.specs.yaml_text import read_yaml


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimization(_Frozen):
    """Settings of the training loop."""

    num_steps: int = Field(gt=0, description="Parameter updates.")
    batch_size: int = Field(gt=0, description="Images per update.")
    learning_rate: float = Field(gt=0, description="Highest rate, reached after the warmup.")
    final_rate: float = Field(
        default=0.02, ge=0, le=1, description="Last rate, as a share of the highest."
    )
    warmup_steps: int = Field(default=100, ge=0, description="Updates until the highest rate.")
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = Field(default=(0.9, 0.99), description="AdamW's two decay rates.")
    clip_norm: float = Field(default=1.0, gt=0, description="Largest norm of a gradient.")
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="Memory of the averaged weights."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="bfloat16 computes the forward pass under autocast."
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where to compute.")
    float32_products: Literal["ieee", "tf32"] | None = Field(
        default=None,
        description="How factors of products and convolutions in float32 are rounded: `ieee` not "
        "at all, `tf32` to 10 bits of mantissa (GPUs only). None leaves it to PyTorch: on a GPU "
        "`tf32` in convolutions and `ieee` in products, if nothing else set it.",
    )
    compile: bool = Field(
        default=False,
        description="Compile what a step computes of its batch, forwards and backwards, as one "
        "graph. It needs a C++ compiler, for a GPU a C compiler, and the headers of Python.",
    )
    seed: int = Field(
        default=0, ge=0, description="Decides initial weights, order of images and noise."
    )
    log_every: int = Field(default=50, gt=0, description="Updates between progress lines.")
    checkpoint_every: int = Field(default=1000, gt=0, description="Updates between checkpoints.")

    @model_validator(mode="after")
    def _arithmetic_is_of_the_device(self) -> Optimization:
        if self.float32_products == "tf32" and self.device == "cpu":
            raise ValueError(
                "float32_products tf32 is an arithmetic of NVIDIA GPUs; on a CPU leave it out, or "
                "set device to cuda"
            )
        return self


class Training(_Frozen):
    """What every training is told."""

    summary: ClassVar[str]
    """What is trained, in the words of the command's help."""

    images: Uri = Field(
        description="Training set: a folder of images, a parquet file or folder, or "
        "`shapes:SUBSET:COUNT` for the embedded world."
    )
    optimization: Optimization


class ClipTraining(Training):
    """Train an image and text encoder; every image needs a caption."""

    summary: ClassVar[str] = "the image and text encoder"

    train: Literal["clip"]
    name: str = Field(min_length=1, description="Name of the encoder, recorded in databases.")
    sizes: ClipSizes = ClipSizes()
    max_logit_scale: float = Field(
        default=30.0, gt=1, description="Bound on the factor of the cosines; see ClipObjective."
    )
    image_tower: Uri | None = Field(
        default=None,
        description="Weights that `train clip` wrote: their image tower stays as it is, with all "
        "embeddings it made, and their text tower is trained on. None trains both anew.",
    )
    alignment_weight: NonNegativeFloat = Field(
        default=0.0,
        description="With `image_tower`: factor of the mean squared distance between embeddings "
        "of image and caption beside the contrastive loss; see TextTowerObjective.",
    )

    @model_validator(mode="after")
    def _fits_the_image_tower(self) -> ClipTraining:
        if self.image_tower is not None and "sizes" in self.model_fields_set:
            raise ValueError("sizes are those of image_tower; leave them out")
        if self.image_tower is None and self.alignment_weight:
            raise ValueError("alignment_weight needs image_tower, weights of `train clip`")
        return self


class AutoencoderTraining(Training):
    """Train an autoencoder, vector-quantized or with Gaussian latents."""

    summary: ClassVar[str] = "the autoencoder under a head"

    train: Literal["autoencoder"]
    architecture: AutoencoderConfig
    quantize_from: int = Field(default=200, ge=0, description="First step with quantization.")
    revive_every: int = Field(
        default=200, gt=0, description="Steps between moves of unused code words."
    )
    revive_until: int = Field(
        default=0, ge=0, description="Last step at which code words are moved."
    )
    freeze_encoder_from: int | None = Field(
        default=None,
        gt=0,
        description="Step from which only codebook and decoder are trained. None means never.",
    )
    kl_weight: NonNegativeFloat = Field(
        default=1e-4,
        description="Factor of the divergence of Gaussian latents beside the reconstruction loss.",
    )


class HeadTraining(Training):
    """What the training of every head is told."""

    autoencoder: Uri = Field(description="Weights that `train autoencoder` wrote.")
    initialize_from: Uri | None = Field(
        default=None,
        description="Weights of a head with the same network, to go on from. None begins anew.",
    )

    @property
    @abstractmethod
    def context_dim(self) -> int:
        """Width of the neighbor embeddings."""


class NeighborTraining(HeadTraining):
    """What the training of a head with neighbors is told besides."""

    encoder: Uri = Field(description="Weights that `train clip` wrote.")
    encoder_weights: Uri | None = Field(
        default=None, description="Weights file where `encoder` is the name of a published model."
    )
    database: Uri = Field(description="Database of neighbors, embedded by `encoder`.")
    neighbors_found: int = Field(default=20, gt=0, description="Neighbors found of each image.")
    k_train: int = Field(
        default=4, gt=0, description="Neighbors given to the head, the first found."
    )
    zero_share: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of examples with an all-zero context, for guidance.",
    )


class DiffusionTraining(HeadTraining):
    """What the training of a diffusion head is told, with neighbors or without."""

    unet: UNetConfig
    noise_schedule: NoiseScheduleConfig = NoiseScheduleConfig()
    preview_steps: int = Field(default=25, gt=0, description="Solver steps of the sample pictures.")

    @property
    def context_dim(self) -> int:
        """Width of the neighbor embeddings."""
        return self.unet.context_dim


class TransformerSizes(_Frozen):
    """Size a transformer; codes and positions follow from the autoencoder."""

    depth: PositiveInt = Field(description="Number of transformer blocks.")
    num_heads: PositiveInt = Field(description="Heads of every attention.")
    head_channels: PositiveInt = Field(description="Channels of one attention head.")
    context_dim: PositiveInt = Field(description="Width of the neighbor embeddings.")


class AutoregressiveTraining(HeadTraining):
    """What the training of an autoregressive head is told, with neighbors or without."""

    transformer: TransformerSizes

    @property
    def context_dim(self) -> int:
        """Width of the neighbor embeddings."""
        return self.transformer.context_dim


class KnnTraining(NeighborTraining):
    """What the training of a KNN-Diffusion head is told besides.

    The context is the image's own embedding, then its neighbors without itself; 0 neighbors
    make the method's own baseline.
    """

    k_train: int = Field(
        default=10,
        ge=0,
        description="Neighbors given to the head after the image's own embedding. 0 gives none: "
        "the method's baseline.",
    )
    query_noise: NonNegativeFloat = Field(
        default=0.0,
        description="Moves every query by a vector of random direction, as long as the query times "
        "a strength drawn uniformly up to this, and gives it its length back.",
    )
    query_mix: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Moves every query towards that of another training image, by a share of the "
        "way drawn uniformly up to this, and gives it its length back.",
    )
    query_drop: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of examples with neighbors whose query alone is zero.",
    )

    @model_validator(mode="after")
    def _something_is_shown(self) -> KnnTraining:
        if self.query_drop and self.k_train == 0:
            raise ValueError("query_drop leaves nothing to see without neighbors; see zero_share")
        return self


class RdmTraining(NeighborTraining, DiffusionTraining):
    """Train a retrieval-augmented diffusion head."""

    summary: ClassVar[str] = "a retrieval-augmented diffusion head"

    train: Literal["rdm"]


class LdmTraining(DiffusionTraining):
    """Train the fully parametric diffusion head: the same network, never shown neighbors."""

    summary: ClassVar[str] = "the diffusion head without neighbors, a baseline"

    train: Literal["ldm"]


class RarmTraining(NeighborTraining, AutoregressiveTraining):
    """Train a retrieval-augmented autoregressive head."""

    summary: ClassVar[str] = "a retrieval-augmented autoregressive head"

    train: Literal["rarm"]


class ArTraining(AutoregressiveTraining):
    """Train the fully parametric autoregressive head: the same network without neighbors."""

    summary: ClassVar[str] = "the autoregressive head without neighbors, a baseline"

    train: Literal["ar"]


class KnnDiscreteTraining(KnnTraining):
    """Train a KNN-Diffusion head over codes."""

    summary: ClassVar[str] = "a KNN-Diffusion head over codes"

    train: Literal["knn_discrete"]
    transformer: TransformerSizes
    num_times: int = Field(default=100, ge=2, description="Times of the forward process.")
    auxiliary_weight: NonNegativeFloat = Field(
        default=5e-4, description="Factor of -log p(x_0) beside the variational bound."
    )
    preview_steps: int = Field(default=25, gt=0, description="Steps of the sample pictures.")

    @property
    def context_dim(self) -> int:
        """Width of the query and the neighbor embeddings."""
        return self.transformer.context_dim


class KnnContinuousTraining(KnnTraining, DiffusionTraining):
    """Train a KNN-Diffusion head over latents."""

    summary: ClassVar[str] = "a KNN-Diffusion head over latents"

    train: Literal["knn_continuous"]


class KnnEditTraining(KnnContinuousTraining):
    """Train a KNN-Diffusion head over latents on, to make given pictures into others."""

    summary: ClassVar[str] = "a KNN-Diffusion head over latents that edits given pictures"

    train: Literal["knn_edit"]  # type: ignore[assignment]
    initialize_from: Uri = Field(
        description="Weights that `train knn_continuous` wrote, of the same sizes: what is new, "
        "the layer that sees the given picture, starts at zero."
    )
    partner: Literal["nearest", "alike"] = Field(
        default="nearest",
        description="Which row of the database a picture's content is replaced from. `nearest`: "
        "its nearest neighbor, as published (nearest to its content, with `context: content`). "
        "`alike`: of `candidates` rows drawn at random the one whose pixels differ least, whatever "
        "it shows; for databases whose nearest rows show the same.",
    )
    candidates: PositiveInt = Field(default=16, description="Rows drawn for `alike`.")
    max_boxes: PositiveInt = Field(
        default=4, description="Boxes replaced in a picture: one to so many, at random."
    )
    whole_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the examples whose picture is replaced as a whole, in place of "
        "boxes: no edge tells what does not belong there, the context alone does.",
    )
    context: Literal["nearest", "content"] = Field(
        default="nearest",
        description="`nearest`: the picture's own embedding and its `k_train` nearest neighbors. "
        "`content`: `k_train` at random of the `neighbors_found` rows nearest to what its "
        "embedding says besides background, place and size, and their mean in the query's place: "
        "nearly what a text has, so that the rest has to be seen in the given picture. For "
        "encoders whose embeddings tell the rest too.",
    )
    least_correlation: float = Field(
        default=0.5,
        ge=-1,
        le=1,
        description="Pictures whose aligned partner correlates less are left out of training.",
    )

    @model_validator(mode="after")
    def _content_is_shown(self) -> KnnEditTraining:
        if self.context == "content":
            if self.k_train == 0:
                raise ValueError("context 'content' is that of neighbors: k_train must not be 0")
            if self.query_noise or self.query_mix or self.query_drop:
                raise ValueError(
                    "context 'content' has the mean of neighbors as its query, which query_noise, "
                    "query_mix and query_drop do not change: leave them out"
                )
        return self


TrainingSpec = Annotated[
    ClipTraining
    | AutoencoderTraining
    | RdmTraining
    | RarmTraining
    | LdmTraining
    | ArTraining
    | KnnDiscreteTraining
    | KnnContinuousTraining
    | KnnEditTraining,
    Field(discriminator="train"),
]
TRAININGS: Final = members(TrainingSpec, "train")
"""Settings of everything that can be trained, by its name in the command."""
_ADAPTER: TypeAdapter[Any] = TypeAdapter(TrainingSpec)


def load_training(path: Path, kind: str) -> Training:
    """Read the settings of a training command.

    Args:
        path: YAML file; safe-loaded.
        kind: What the file should ask to train.

    Raises:
        SpecError: If the file cannot be read or asks to train something else.
        InvalidJobError: If fields are wrong; all are listed.
    """
    where = str(path)
    document = read_yaml(path)
    try:
        spec = _ADAPTER.validate_python(document)
    except ValidationError as error:
        problems = problems_of(error, TrainingSpec, document, "train")
        raise InvalidJobError(where, problems) from error
    if spec.train != kind:
        raise SpecError(where, f"asks to train {spec.train}", f"train: {kind}")
    read: Training = spec
    return read
