"""From features and a reference to scores with uncertainties and descriptions."""

from __future__ import annotations

from collections.abc import Sequence

from rdm_batch.errors import MetricError
from rdm_batch.metrics.evaluation import Evaluation, Findings, ScoreSettings, SideData
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.score import Score
from rdm_batch.metrics.scorers import SCORERS
from rdm_batch.metrics.tasks import HERE, TaskRunner

__all__ = ["SCORE_NAMES", "Findings", "ScoreSettings", "SideData", "compute_scores"]

SCORE_NAMES = tuple(SCORERS)


def compute_scores(
    generated: FeatureSet | ReferenceStatistics,
    reference: ReferenceStatistics | None,
    names: Sequence[str],
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
        names: Scores wanted, each one of ``SCORE_NAMES``.
        settings: Neighborhood sizes, seeds, resampling. None means the defaults.
        side_data: What some scores need besides features. None means there is none.
        partial: Whether the samples are an incomplete set; recorded in every score.
        runner: Where parts of the larger scores are computed; never changes a value.
        findings: Filled in with what the scores find out on their way. None drops it.

    Returns:
        One score per name, in the order of the names.

    Raises:
        MetricError: A name is unknown, the extractors differ, there are too few samples, or
            something a score needs is missing.
    """
    unknown = [name for name in names if name not in SCORERS]
    if unknown:
        raise MetricError(
            "scores", f"unknown score {unknown[0]!r}", f"one of {', '.join(SCORE_NAMES)}"
        )
    if reference is not None and generated.extractor != reference.extractor:
        raise MetricError(
            reference.source,
            f"reference features of {_named(reference)} but samples have features of "
            f"{_named(generated)}",
            "the same extractor, weights and resize on both sides",
            "build the reference again with the extractor of the samples",
        )
    evaluation = Evaluation(
        generated=generated,
        reference=reference,
        names=tuple(names),
        settings=settings or ScoreSettings(),
        side_data=side_data or SideData(),
        partial=partial,
        runner=runner,
        findings=Findings() if findings is None else findings,
    )
    found: dict[str, Score] = {}
    for name in names:
        if name not in found:
            found |= {score.name: score for score in SCORERS[name](evaluation)}
    return [found[name] for name in names]


def _named(features: FeatureSet | ReferenceStatistics) -> str:
    extractor = features.extractor
    return f"{extractor.name} ({extractor.digest[:12]}, {extractor.resize}, {extractor.image_size})"
