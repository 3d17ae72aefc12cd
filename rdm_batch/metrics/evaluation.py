"""The inputs of one evaluation, as every score sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.edits import EditData
from rdm_batch.metrics.features import EncoderFeatures, FeatureSet
from rdm_batch.metrics.manifold_scores import PrecisionRecall
from rdm_batch.metrics.moments import GaussianStatistics, gaussian_statistics
from rdm_batch.metrics.novelty import NoveltyDistances
from rdm_batch.metrics.pairing import Influences
from rdm_batch.metrics.pairwise import DEFAULT_BLOCK_SIZE
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.tasks import HERE, TaskRunner
from rdm_batch.specs.scores import OWN_LAYERS, ScoreDescription, ScoreKind


@dataclass(frozen=True)
class ScoreSettings:
    """Hold what scores may be told besides their inputs.

    Args:
        k: Neighborhood size of precision and recall.
        density_k: Neighborhood size of density and coverage.
        splits: Splits of the Inception Score.
        subsets: Subsets of the kernel distance.
        subset_size: Samples of either side in a subset; less where a side has fewer.
        seed: Seed of splits and subsets.
        block_size: Rows and columns of one tile; bounds memory, never changes a value.
    """

    k: int = 3
    density_k: int = 5
    splits: int = 10
    subsets: int = 100
    subset_size: int = 1000
    seed: int = 2020
    block_size: int = DEFAULT_BLOCK_SIZE

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            MetricError: A number is too small to mean anything.
        """
        least = {"k": 1, "density_k": 1, "splits": 1, "subsets": 1, "subset_size": 2, "seed": 0}
        least["block_size"] = 1
        for name, bound in least.items():
            value = getattr(self, name)
            if value < bound:
                raise MetricError("scores", f"{name} is {value}", f"{bound} or more")


@dataclass(frozen=True)
class SideData:
    """Hold what some scores need besides features of samples and reference.

    Args:
        texts: Embedding of each sample's prompt by the extractor's own text tower, in the order
            of the samples. Needed for scores of ``prompts``.
        novelty: How far samples are from what they were made from. Needed for scores of
            ``distances``.
        edits: What each sample is an edit of. Needed for scores of ``edits``.
    """

    texts: Float32[np.ndarray, "n d"] | None = None
    novelty: NoveltyDistances | None = None
    edits: EditData | None = None


@dataclass
class Findings:
    """Collect what scores find out on their way and pictures show.

    Args:
        precision_recall: Who lies in whose manifold. None where no score asked.
        influences: Score to the influence of each image, of scores that have them. None where
            nobody asks: those of some scores cost as much as the score.
    """

    precision_recall: PrecisionRecall | None = None
    influences: dict[str, Influences] | None = None


@dataclass(frozen=True)
class Evaluation:
    """Hold everything the scores of one evaluation are computed from.

    Args:
        generated: Features of the samples, or what is saved of them.
        reference: Reference of the same extractor, if any.
        ids: Every score wanted; scores of one pass are computed together.
        settings: Neighborhood sizes, seeds, resampling.
        side_data: What some scores need besides.
        partial: Whether the samples are an incomplete set.
        runner: Where parts are computed.
        findings: Filled in by the scores.
    """

    generated: FeatureSet | ReferenceStatistics
    reference: ReferenceStatistics | None
    ids: tuple[str, ...]
    settings: ScoreSettings
    side_data: SideData = field(default_factory=SideData)
    partial: bool = False
    runner: TaskRunner = HERE
    findings: Findings = field(default_factory=Findings)

    @property
    def main_layer(self) -> str:
        """Return the layer most scores are taken on: the first without a purpose of its own."""
        layers = self.generated.extractor.layers
        return next(name for name in layers if name not in OWN_LAYERS)

    def layer_of(self, kind: ScoreKind) -> str:
        """Return the layer a score is taken on.

        Raises:
            MetricError: The extractor has no such layer.
        """
        extractor, layer, needed = self.generated.extractor, kind.layer, ""
        if layer is not None:
            needed = OWN_LAYERS[layer]
        elif kind.features_of == "encoder":
            layer, needed = EncoderFeatures.LAYER, "an image-text encoder"
        else:
            layer = self.main_layer
        if layer not in extractor.layers:
            raise MetricError(kind.id, f"{extractor.name} has no layer {layer!r}", needed)
        return layer

    @property
    def images(self) -> str | None:
        """Say how images of any size were brought to one, on whichever side that is known."""
        return self.generated.images or (self.reference.images if self.reference else None)

    def rows(self, layer: str) -> Float32[np.ndarray, "n d"]:
        """Return the samples' features of a layer.

        Raises:
            MetricError: There is no such layer, or only its moments are known.
        """
        if isinstance(self.generated, FeatureSet):
            return self.generated.layer(layer)
        return self.generated.rows(layer)

    def gaussian(self, layer: str) -> GaussianStatistics:
        """Return the moments of the samples' features of a layer.

        Raises:
            MetricError: There is no such layer, or fewer than two samples.
        """
        if isinstance(self.generated, FeatureSet):
            return gaussian_statistics(self.generated.layer(layer), self.generated.source)
        return self.generated.gaussian(layer)

    @property
    def knows_rows(self) -> bool:
        """Say whether single samples are known, not their moments alone."""
        return isinstance(self.generated, FeatureSet) or bool(self.generated.features)

    def num_generated(self, layer: str) -> int | None:
        """Count the samples; None when their file does not say."""
        if isinstance(self.generated, FeatureSet):
            return len(self.generated)
        return self.generated.gaussian(layer).count

    def keep_influences(
        self,
        score: str,
        compute: Callable[[], Float64[np.ndarray, " n"]],
        over: Literal["samples", "reference"] = "samples",
    ) -> None:
        """Keep the influence of each image on a score, where somebody asks for them.

        Args:
            score: Which score.
            compute: Gives them, in the order of the images.
            over: What they are of; see ``Influences``.
        """
        kept = self.findings.influences
        if kept is None or not isinstance(self.generated, FeatureSet):
            return
        values = compute()
        ids = self.generated.ids if over == "samples" else np.arange(len(values), dtype=np.int64)
        if len(ids) == len(values) > 1:
            kept[score] = Influences(over, ids, values)

    def need_reference(self, score: str) -> ReferenceStatistics:
        """Return the reference.

        Raises:
            MetricError: There is none.
        """
        if self.reference is None:
            raise MetricError(score, "no reference is given", "reference statistics or images")
        return self.reference

    def describe(
        self,
        kind: ScoreKind,
        layer: str,
        num_reference: int | None = None,
        k: int | None = None,
        seed: int | None = None,
        **settings: int | float | str,
    ) -> ScoreDescription:
        """Describe a score of this evaluation; arguments as in ``ScoreDescription``."""
        extractor = self.generated.extractor
        compared = self.reference is not None and kind.reference is not None
        return ScoreDescription(
            name=kind.id,
            extractor=extractor.name,
            extractor_digest=extractor.digest,
            layer=layer,
            image_size=extractor.image_size,
            resize=extractor.resize,
            images=self.images,
            reference=self.need_reference(kind.id).digest if compared else None,
            num_generated=self.num_generated(layer),
            num_reference=num_reference,
            k=k,
            seed=seed,
            settings={**settings},
            partial=self.partial,
        )
