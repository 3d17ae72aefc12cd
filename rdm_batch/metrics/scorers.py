"""Every score by its id: how it is computed, with which uncertainty, described how."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.clip_score import SCALE, clip_scores
from rdm_batch.metrics.evaluation import Evaluation
from rdm_batch.metrics.frechet import frechet_distance
from rdm_batch.metrics.inception_score import inception_score
from rdm_batch.metrics.kernel_distance import kernel_distance
from rdm_batch.metrics.manifold_scores import manifold_scores
from rdm_batch.metrics.pairing import (
    inception_influences,
    kernel_influences,
    mean_influences,
    share_influences,
)
from rdm_batch.metrics.resampling import (
    MIN_SAMPLES,
    estimate_frechet,
    mean_error,
    share_error,
)
from rdm_batch.specs.scores import SCORES, Score, ScoreDescription, ScoreKind

_SHARE_METHOD = (
    "sqrt(p (1 - p) / n): the limit of resampling the judged side, manifold held fixed; no cost"
)
_MEAN_METHOD = "standard error of the mean over samples; no cost"


def _frechet(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    layer = evaluation.layer_of(kind)
    reference = evaluation.need_reference(kind.id).gaussian(layer)
    if not evaluation.knows_rows:
        value, error = frechet_distance(evaluation.gaussian(layer), reference), None
        method = "not computed: only the moments of the samples are known"
    elif len(rows := evaluation.rows(layer)) < MIN_SAMPLES:
        value, error = frechet_distance(evaluation.gaussian(layer), reference), None
        method = f"not computed: fewer than {MIN_SAMPLES} samples"
    else:
        estimate = estimate_frechet(rows, reference)
        value, error = estimate.value, estimate.error
        evaluation.keep_influences(kind.id, lambda: mean_influences(estimate.influences))
        method = "infinitesimal jackknife over the samples; eigenvectors and one product"
    return [
        Score(
            value=value,
            uncertainty=error,
            uncertainty_method=method,
            description=evaluation.describe(kind, layer, reference.count),
        )
    ]


def _kid(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    layer, settings = evaluation.layer_of(kind), evaluation.settings
    reference = evaluation.need_reference(kind.id).rows(layer)
    distance = kernel_distance(
        evaluation.rows(layer),
        reference,
        settings.subsets,
        settings.subset_size,
        settings.seed,
        evaluation.runner,
    )
    evaluation.keep_influences(
        kind.id, lambda: kernel_influences(evaluation.rows(layer), reference)
    )
    description = evaluation.describe(
        kind,
        layer,
        len(reference),
        seed=settings.seed,
        subsets=settings.subsets,
        subset_size=distance.subset_size,
    )
    return [
        Score(
            value=distance.mean,
            uncertainty=distance.std,
            uncertainty_method="standard deviation between subsets; no cost",
            description=description,
        )
    ]


def _is(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    layer, settings = evaluation.layer_of(kind), evaluation.settings
    result = inception_score(evaluation.rows(layer), settings.splits, settings.seed)
    evaluation.keep_influences(
        kind.id, lambda: inception_influences(evaluation.rows(layer), result.mean)
    )
    return [
        Score(
            value=result.mean,
            uncertainty=result.std,
            uncertainty_method="standard deviation between splits; no cost",
            description=evaluation.describe(
                kind, layer, seed=settings.seed, splits=settings.splits
            ),
        )
    ]


def _manifold(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    """Compute whichever of the four are wanted; they share most of the work."""
    wanted, settings = set(evaluation.ids), evaluation.settings
    layer = evaluation.layer_of(kind)
    reference = evaluation.need_reference("precision, recall, density, coverage").rows(layer)
    result = manifold_scores(
        evaluation.rows(layer),
        reference,
        settings.k if wanted & {"precision", "recall"} else None,
        settings.density_k if wanted & {"density", "coverage"} else None,
        settings.block_size,
        evaluation.runner,
    )

    scores = []

    def add(score: str, k: int, value: float, error: float | None, method: str) -> None:
        description = evaluation.describe(SCORES[score], layer, len(reference), k=k)
        scores.append(
            Score(
                value=value,
                uncertainty=error,
                uncertainty_method=method,
                description=description,
            )
        )

    def keep(
        score: str, inside: Bool[np.ndarray, " n"], over: Literal["samples", "reference"]
    ) -> None:
        evaluation.keep_influences(score, lambda: share_influences(inside), over)

    first, second = result.precision_recall, result.density_coverage
    if first is not None:
        keep("precision", first.generated_inside, "samples")
        keep("recall", first.reference_inside, "reference")
        evaluation.findings.precision_recall = first
        error = share_error(first.generated_inside)
        add("precision", settings.k, first.precision, error, _SHARE_METHOD)
        error = share_error(first.reference_inside)
        add("recall", settings.k, first.recall, error, _SHARE_METHOD)
    if second is not None:
        per_sample = second.balls / second.k
        evaluation.keep_influences("density", lambda: mean_influences(per_sample))
        keep("coverage", second.covered, "reference")
        spread = mean_error(second.balls / second.k)
        add("density", second.k, second.density, spread, _MEAN_METHOD)
        add("coverage", second.k, second.coverage, share_error(second.covered), _SHARE_METHOD)
    return scores


def _clip_score(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    texts = evaluation.side_data.texts
    if texts is None:
        raise MetricError(
            kind.id,
            "no prompt embeddings",
            "samples with prompts and a CLIP extractor",
            f"leave {kind.id} out for sets that were not made from text",
        )
    layer = evaluation.layer_of(kind)
    values = clip_scores(evaluation.rows(layer), texts)
    evaluation.keep_influences(kind.id, lambda: mean_influences(values))
    return [_mean_score(values, evaluation.describe(kind, layer, scale=SCALE))]


def _novelty(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    novelty, which = evaluation.side_data.novelty, kind.distances
    values = None if novelty is None or which is None else novelty.of(which)
    if novelty is None or values is None:
        raise MetricError(
            kind.id,
            "the distances it is made of are missing",
            "a sample set with its database, and the database's encoder as extractor",
        )
    if which != "held_out":  # whose images are no samples
        evaluation.keep_influences(kind.id, lambda: mean_influences(values))
    description = evaluation.describe(
        kind,
        evaluation.layer_of(kind),
        None if kind.reference is None else len(values),
        database=novelty.database,
        distance="1 - cosine",
    )
    return [_mean_score(values, description)]


def _mean_score(values: Float64[np.ndarray, " n"], description: ScoreDescription) -> Score:
    return Score(
        value=math.fsum(values) / len(values),
        uncertainty=mean_error(values),
        uncertainty_method=_MEAN_METHOD,
        description=description,
    )


Scorer = Callable[[Evaluation, ScoreKind], list[Score]]
"""Computes a score, and beside it others that are wanted and cost next to nothing more."""
SCORERS: dict[str, Scorer] = {
    "fid": _frechet,
    "precision": _manifold,
    "recall": _manifold,
    "density": _manifold,
    "coverage": _manifold,
    "kid": _kid,
    "is": _is,
    "sfid": _frechet,
    "clip_fid": _frechet,
    "clip_score": _clip_score,
    "novelty_neighbors": _novelty,
    "novelty_database": _novelty,
    "novelty_held_out": _novelty,
}
