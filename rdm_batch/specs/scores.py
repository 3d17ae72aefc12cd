"""Every score as one record, and the form in which a computed score is handed on and saved.

What there is to know about a score before it is computed stands in ``SCORES``, once. Validation,
checks before work, extraction, labels, help and docs read it; ``metrics.scorers`` holds, under
the same ids, how each is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, JsonValue, NonNegativeFloat

LOGITS_LAYER = "logits_unbiased"
SPATIAL_LAYER = "spatial"
OWN_LAYERS = {
    LOGITS_LAYER: "class logits (inception-v3-compat)",
    SPATIAL_LAYER: "spatial features (inception-v3-compat)",
}
"""Layers that single scores are taken on, and where there are such; every other score takes the
first of an extractor's other layers."""

Better = Literal["higher", "lower"] | None
"""Which of two values is better; None for neither."""
Distances = Literal["neighbors", "nearest", "held_out"]


@runtime_checkable
class Sizes(Protocol):
    """What settings of an evaluation say about how many samples a score needs."""

    @property
    def k(self) -> int:
        """Return the neighborhood size of precision and recall."""

    @property
    def density_k(self) -> int:
        """Return the neighborhood size of density and coverage."""

    @property
    def splits(self) -> int:
        """Return the splits of the Inception Score."""


def _two(_: Sizes) -> int:
    return 2


@dataclass(frozen=True)
class ScoreKind:
    """Declare a score.

    Args:
        id: Its name in job files, commands, files of scores and ``metrics.scorers``.
        label: What people call it.
        better: Which of two values is better. None for neither.
        summary: What it is, for docs and help.
        reference: What it needs of the reference: mean and covariance, or single features. None
            when it is made from the samples alone.
        layer: One of ``OWN_LAYERS``. None for an extractor's main layer.
        features_of: Which network it is made with: the evaluation's extractor, an image-text
            encoder beside it, or the encoder the database is searched with.
        distances: Of ``NoveltyDistances``, those it is made of. They need a database, and for
            ``neighbors`` the rows each sample was conditioned on. Empty for a score without.
        prompts: Whether it needs the prompt of every sample.
        edits: Whether it compares every sample with the picture it is an edit of.
        least_samples: Fewest samples it is made from, by settings.
        least_reference: Fewest images of the reference, or held out where its distances are.
        labels_on: What it is called instead, by the beginning of the extractor's name; the first
            that fits counts.
    """

    id: str
    label: str
    better: Better
    summary: str
    reference: Literal["moments", "features"] | None = None
    layer: str | None = None
    features_of: Literal["extractor", "encoder", "database_encoder"] = "extractor"
    distances: tuple[Distances, ...] = ()
    prompts: bool = False
    edits: bool = False
    least_samples: Callable[[Sizes], int] = _two
    least_reference: int = 1
    labels_on: Mapping[str, str] = field(default_factory=dict)

    def label_on(self, extractor: str | None) -> str:
        """Return what it is called when an extractor made it; None for an unknown one."""
        if extractor is None:
            return self.label
        fitting = (label for start, label in self.labels_on.items() if extractor.startswith(start))
        return next(fitting, self.label)


_KINDS = (
    ScoreKind(
        id="fid",
        label="FID",
        better="lower",
        summary="Frechet distance of Gaussians fitted to features",
        reference="moments",
        # FID is Inception's alone; every other name but these is an image-text encoder's.
        labels_on={
            "inception-v3-compat": "FID",
            "dinov2": "FD-DINOv2",
            "vgg16": "FD-VGG16",
            "": "CLIP-FID",
        },
    ),
    ScoreKind(
        id="precision",
        label="precision",
        better="higher",
        summary="share of samples in the reference's manifold",
        reference="features",
        least_samples=lambda sizes: sizes.k + 1,
    ),
    ScoreKind(
        id="recall",
        label="recall",
        better="higher",
        summary="share of the reference in the samples' manifold",
        reference="features",
        least_samples=lambda sizes: sizes.k + 1,
    ),
    ScoreKind(
        id="density",
        label="density",
        better="higher",
        summary="mean number of the reference's neighborhoods around a sample, in units of their k",
        reference="features",
        least_samples=lambda sizes: sizes.density_k + 1,
    ),
    ScoreKind(
        id="coverage",
        label="coverage",
        better="higher",
        summary="share of the reference's neighborhoods that hold a sample",
        reference="features",
        least_samples=lambda sizes: sizes.density_k + 1,
    ),
    ScoreKind(
        id="clipped_density",
        label="clipped density",
        better="higher",
        summary="density with the radii of the reference and what a sample counts for bounded, as "
        "a part of good samples",
        reference="features",
        least_samples=lambda sizes: sizes.density_k + 1,
    ),
    ScoreKind(
        id="clipped_coverage",
        label="clipped coverage",
        better="higher",
        summary="coverage where a neighborhood wants k samples, as a part of good samples",
        reference="features",
        least_samples=lambda sizes: sizes.density_k + 1,
    ),
    ScoreKind(
        id="kid",
        label="KID",
        better="lower",
        summary="squared kernel distance of features",
        reference="features",
    ),
    ScoreKind(
        id="kd",
        label="KD",
        better="lower",
        summary="squared kernel distance of features over all pairs",
        reference="features",
        labels_on={"dinov2": "KD-DINOv2"},
        least_reference=2,
    ),
    ScoreKind(
        id="mind",
        label="MIND",
        better="lower",
        summary="sliced Wasserstein distance of features",
        reference="features",
    ),
    ScoreKind(
        id="fid_infinity",
        label="FID-infinity",
        better="lower",
        summary="Frechet distance extrapolated to infinitely many samples",
        reference="moments",
        least_samples=lambda _: 200,
    ),
    ScoreKind(
        id="vendi",
        label="Vendi score",
        better="higher",
        summary="effective number of different samples",
    ),
    ScoreKind(
        id="is",
        label="IS",
        better="higher",
        summary="Inception Score",
        layer=LOGITS_LAYER,
        least_samples=lambda sizes: sizes.splits,
    ),
    ScoreKind(
        id="sfid",
        label="sFID",
        better="lower",
        summary="Frechet distance of Inception's spatial features",
        reference="moments",
        layer=SPATIAL_LAYER,
    ),
    ScoreKind(
        id="clip_fid",
        label="CLIP-FID",
        better="lower",
        summary="Frechet distance with an image-text encoder, beside another extractor",
        reference="moments",
        features_of="encoder",
    ),
    ScoreKind(
        id="cmmd",
        label="CMMD",
        better="lower",
        summary="squared kernel distance of image-text embeddings over all pairs",
        reference="features",
        features_of="encoder",
        least_reference=2,
    ),
    ScoreKind(
        id="clip_score",
        label="CLIP-score",
        better="higher",
        summary="how well samples follow their prompts",
        features_of="encoder",
        prompts=True,
    ),
    ScoreKind(
        id="edit_clip_direction",
        label="directional CLIP similarity",
        better="higher",
        summary="how far the way from source to edit is the way from the source's caption to the "
        "instruction",
        features_of="encoder",
        prompts=True,
        edits=True,
    ),
    ScoreKind(
        id="preservation",
        label="feature distance to the source",
        better="lower",
        summary="distance of edits to their sources in features",
        edits=True,
    ),
    ScoreKind(
        id="preservation_outside",
        label="pixel distance outside the edit",
        better="lower",
        summary="distance of edits to their sources in pixels, outside of what changed most",
        edits=True,
    ),
    ScoreKind(
        id="novelty_neighbors",
        label="novelty to neighbors",
        better=None,
        summary="distance of samples to the nearest of their own conditioning neighbors",
        features_of="database_encoder",
        distances=("neighbors",),
    ),
    ScoreKind(
        id="novelty_database",
        label="novelty to database",
        better=None,
        summary="distance of samples to the nearest database entry",
        features_of="database_encoder",
        distances=("nearest",),
    ),
    ScoreKind(
        id="novelty_held_out",
        label="novelty of held-out images",
        better=None,
        summary="distance of images that the database does not hold to the nearest database entry",
        reference="features",
        features_of="database_encoder",
        distances=("held_out",),
    ),
    ScoreKind(
        id="copy_share",
        label="share of copies",
        better="lower",
        summary="share of samples nearer to one of their own conditioning neighbors than the "
        "nearest hundredth of held-out images is to the database",
        reference="features",
        features_of="database_encoder",
        distances=("neighbors", "held_out"),
        least_reference=100,
    ),
)
SCORES: dict[str, ScoreKind] = {kind.id: kind for kind in _KINDS}


class ScoreDescription(BaseModel):
    """Say what a score depends on besides the samples. Scores compare only when this matches.

    None where it does not apply, or where a saved file does not say.

    Args:
        name: Which score: its id.
        extractor: Name of the feature extractor.
        extractor_digest: SHA-256 of its weights and configuration.
        layer: Feature layer.
        image_size: Side in pixels of what the extractor sees.
        resize: Named resize, filter included.
        reference: Digest of the reference. None for scores without one.
        num_generated: Samples judged. None when their file does not say.
        num_reference: Reference samples. None without a reference, or when its file does not say.
        k: Neighborhood size. None for scores without neighborhoods.
        seed: Seed of splits or subsets. None when nothing is drawn.
        settings: Everything else that moves the value (splits, subset size, ...).
        partial: Whether the set was incomplete and judged all the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    extractor: str | None = None
    extractor_digest: str | None = None
    layer: str | None = None
    image_size: int | None = None
    resize: str | None = None
    images: str | None = None
    reference: str | None = None
    num_generated: int | None = None
    num_reference: int | None = None
    k: int | None = None
    seed: int | None = None
    settings: dict[str, JsonValue] = {}
    partial: bool = False

    def conditions(self) -> dict[str, JsonValue]:
        """Return what is known of the conditions under which the score was made, by field."""
        return self.model_dump(exclude={"name"}, exclude_none=True)


class Score(BaseModel):
    """Hold one score.

    Args:
        value: The number.
        uncertainty: One standard error (or the spread the score's own convention reports). None
            when there is none.
        uncertainty_method: How it was obtained and what that cost, in words.
        description: Which score it is, and what the number depends on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    uncertainty: NonNegativeFloat | None = None
    uncertainty_method: str = ""
    description: ScoreDescription

    @property
    def id(self) -> str:
        """Return which score this is: a key of ``SCORES``, unless another version made it."""
        return self.description.name

    @property
    def label(self) -> str:
        """Return what people call it; the id of a score that this version does not know."""
        kind = SCORES.get(self.id)
        return self.id if kind is None else kind.label_on(self.description.extractor)

    @property
    def better(self) -> Better:
        """Return which of two values is better; None for neither, or where that is not known."""
        kind = SCORES.get(self.id)
        return None if kind is None else kind.better
