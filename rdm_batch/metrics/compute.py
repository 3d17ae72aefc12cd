"""From features and a reference to scores with uncertainties and descriptions."""

from __future__ import annotations

from collections.abc import Sequence

from rdm_batch.errors import MetricError
from rdm_batch.metrics.evaluation import Evaluation, Findings, ScoreSettings, SideData
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.scorers import SCORERS
from rdm_batch.metrics.tasks import HERE, TaskRunner
from rdm_batch.specs.scores import SCORES, Score

__all__ = ["Findings", "ScoreSettings", "SideData", "compute_scores"]


def compute_scores(
    generated: FeatureSet | ReferenceStatistics,
    reference: ReferenceStatistics | None,
    ids: Sequence[str],
    settings: ScoreSettings | None = None,
    side_data: SideData | None = None,
    partial: bool = False,
    runner: TaskRunner = HERE,
    findings: Findings | None = None,
) -> list[Score]:
    """Compute scores of generated features against a reference.

    Args:
        generated: Features of the samples, or what was saved of them.
        reference: Reference of the same extractor. None when no score wanted needs one.
        ids: Scores wanted, keys of ``specs.scores.SCORES``.
        settings: Neighborhood sizes, seeds, resampling. None means the defaults.
        side_data: What some scores need besides features. None means there is none.
        partial: Whether the samples are an incomplete set; recorded in every score.
        runner: Where parts of the larger scores are computed; never changes a value.
        findings: Filled in with what the scores find out on their way. None drops it.

    Returns:
        One score per id, in the order of the ids.

    Raises:
        MetricError: An id is unknown, the extractors differ, there are too few samples, or
            something a score needs is missing.
    """
    unknown = [score for score in ids if score not in SCORES]
    if unknown:
        raise MetricError("scores", f"unknown score {unknown[0]!r}", f"one of {', '.join(SCORES)}")
    if reference is not None and generated.extractor != reference.extractor:
        raise MetricError(
            reference.source,
            f"reference features of {_named(reference)} but samples have features of "
            f"{_named(generated)}",
            "the same extractor, weights and resize on both sides",
            "build the reference again with the extractor of the samples",
        )
    if reference is not None and generated.images and reference.images:
        require_images(reference, generated.images)
    evaluation = Evaluation(
        generated=generated,
        reference=reference,
        ids=tuple(ids),
        settings=settings or ScoreSettings(),
        side_data=side_data or SideData(),
        partial=partial,
        runner=runner,
        findings=Findings() if findings is None else findings,
    )
    found: dict[str, Score] = {}
    for wanted in ids:
        if wanted not in found:
            made = SCORERS[wanted](evaluation, SCORES[wanted])
            found |= {score.id: score for score in made}
    return [found[wanted] for wanted in ids]


def require_images(reference: ReferenceStatistics, images: str) -> None:
    """Refuse statistics of images that were brought to one size in another way.

    Args:
        reference: The statistics.
        images: How the images they are compared with were brought to one size.

    Raises:
        MetricError: They were brought to it in another way, or taken as they were.
    """
    if reference.images != images:
        raise MetricError(
            reference.source,
            f"statistics of images brought to {reference.images or 'no other size'}, "
            f"to be compared with images brought to {images}",
            "one resize on both sides",
            "name the images themselves, build the reference again, or choose its resize",
        )


def _named(features: FeatureSet | ReferenceStatistics) -> str:
    extractor = features.extractor
    return f"{extractor.name} ({extractor.digest[:12]}, {extractor.resize}, {extractor.image_size})"
