"""Every score by its id: how it is computed, with which uncertainty, described how."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.clip_score import SCALE, clip_scores
from rdm_batch.metrics.edit_scorers import edit_direction, preservation, preservation_outside
from rdm_batch.metrics.evaluation import Evaluation
from rdm_batch.metrics.fid_infinity import POINTS, fid_infinity
from rdm_batch.metrics.frechet import frechet_distance
from rdm_batch.metrics.inception_score import inception_score
from rdm_batch.metrics.kernel_distance import kernel_distance
from rdm_batch.metrics.kernel_whole import (
    CMMD_SCALE,
    CMMD_SIGMA,
    cubic_kernel,
    gaussian_kernel,
    kernel_influences,
    whole_kernel_distance,
)
from rdm_batch.metrics.manifold_scorers import clipped, manifold
from rdm_batch.metrics.novelty import COPY_PART, NoveltyDistances, copies
from rdm_batch.metrics.pairing import (
    inception_influences,
    mean_influences,
    share_influences,
)
from rdm_batch.metrics.resampling import (
    MEAN_METHOD,
    MIN_SAMPLES,
    Estimate,
    estimate_frechet,
    mean_error,
    share_error,
)
from rdm_batch.metrics.sliced_wasserstein import PROJECTIONS, mind
from rdm_batch.metrics.vendi import vendi_score
from rdm_batch.specs.scores import Score, ScoreDescription, ScoreKind

_JACKKNIFE = "infinitesimal jackknife over the samples, reference held fixed"


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


def _fid_infinity(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    layer, seed = evaluation.layer_of(kind), evaluation.settings.seed
    reference = evaluation.need_reference(kind.id).gaussian(layer)
    estimate = fid_infinity(evaluation.rows(layer), reference, seed, evaluation.runner)
    description = evaluation.describe(kind, layer, reference.count, seed=seed, points=POINTS)
    return [
        _estimated(
            evaluation,
            estimate,
            description,
            f"infinitesimal jackknife over the samples, through all {POINTS} distances",
        )
    ]


def _kernel(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    """Compute a kernel distance over all pairs."""
    layer, settings = evaluation.layer_of(kind), evaluation.settings
    reference = evaluation.need_reference(kind.id).rows(layer)
    rows, pairs = evaluation.rows(layer), (settings.block_size, evaluation.runner)
    if kind.id == "cmmd":
        scale, kernel = CMMD_SCALE, gaussian_kernel
        description = evaluation.describe(
            kind, layer, len(reference), sigma=CMMD_SIGMA, scale=scale, estimator="unbiased"
        )
    else:
        scale, kernel = 1.0, cubic_kernel
        description = evaluation.describe(kind, layer, len(reference), estimator="unbiased")
    found = whole_kernel_distance(rows, reference, kernel, *pairs)
    estimate = Estimate(scale * found.value, scale * found.influences)
    return [_estimated(evaluation, estimate, description, f"{_JACKKNIFE}; no cost")]


def _mind(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    layer, seed = evaluation.layer_of(kind), evaluation.settings.seed
    reference = evaluation.need_reference(kind.id).rows(layer)
    estimate = mind(evaluation.rows(layer), reference, PROJECTIONS, seed, evaluation.runner)
    description = evaluation.describe(
        kind, layer, len(reference), seed=seed, projections=PROJECTIONS
    )
    return [_estimated(evaluation, estimate, description, f"{_JACKKNIFE}; no cost")]


def _vendi(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    layer = evaluation.layer_of(kind)
    estimate = vendi_score(evaluation.rows(layer))
    description = evaluation.describe(kind, layer, kernel="cosine")
    return [_estimated(evaluation, estimate, description, f"{_JACKKNIFE}; no cost")]


def _estimated(
    evaluation: Evaluation, estimate: Estimate, description: ScoreDescription, method: str
) -> Score:
    """Give a score whose error comes from the influences of the samples."""
    evaluation.keep_influences(description.name, lambda: estimate.influences)
    return Score(
        value=estimate.value,
        uncertainty=estimate.error,
        uncertainty_method=method,
        description=description,
    )


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
    novelty, (values,) = _distances(evaluation, kind)
    settings: dict[str, Any] = {"database": novelty.database, "distance": "1 - cosine"}
    if "held_out" in kind.distances:  # whose images are no samples
        settings["held_out"] = _held_out(novelty)
    else:
        evaluation.keep_influences(kind.id, lambda: mean_influences(values))
    description = evaluation.describe(
        kind,
        evaluation.layer_of(kind),
        None if kind.reference is None else len(values),
        **settings,
    )
    return [_mean_score(values, description)]


def _held_out(novelty: NoveltyDistances) -> str:
    return novelty.held_out_digest or "not known"


def _copy_share(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    novelty, (neighbors, held_out) = _distances(evaluation, kind)
    copied = copies(neighbors, held_out)
    evaluation.keep_influences(kind.id, lambda: share_influences(copied))
    description = evaluation.describe(
        kind,
        evaluation.layer_of(kind),
        len(held_out),
        database=novelty.database,
        distance="1 - cosine",
        part=COPY_PART,
        held_out=_held_out(novelty),
    )
    return [
        Score(
            value=float(copied.mean()),
            uncertainty=share_error(copied),
            uncertainty_method="sqrt(p (1 - p) / n): binomial, threshold held fixed; no cost",
            description=description,
        )
    ]


def _distances(
    evaluation: Evaluation, kind: ScoreKind
) -> tuple[NoveltyDistances, list[Float64[np.ndarray, " _"]]]:
    """Give the distances a score is made of, in the order of its record."""
    novelty = evaluation.side_data.novelty
    found = [] if novelty is None else [novelty.of(which) for which in kind.distances]
    known = [values for values in found if values is not None]
    if novelty is None or len(known) < len(kind.distances):
        raise MetricError(
            kind.id,
            "the distances it is made of are missing",
            "a sample set with its database, and the database's encoder as extractor",
        )
    return novelty, known


def _mean_score(values: Float64[np.ndarray, " n"], description: ScoreDescription) -> Score:
    return Score(
        value=math.fsum(values) / len(values),
        uncertainty=mean_error(values),
        uncertainty_method=MEAN_METHOD,
        description=description,
    )


Scorer = Callable[[Evaluation, ScoreKind], list[Score]]
"""Computes a score, and beside it others that are wanted and cost next to nothing more."""
SCORERS: dict[str, Scorer] = {
    "fid": _frechet,
    "precision": manifold,
    "recall": manifold,
    "density": manifold,
    "coverage": manifold,
    "clipped_density": clipped,
    "clipped_coverage": clipped,
    "kid": _kid,
    "is": _is,
    "sfid": _frechet,
    "clip_fid": _frechet,
    "clip_score": _clip_score,
    "edit_clip_direction": edit_direction,
    "preservation": preservation,
    "preservation_outside": preservation_outside,
    "novelty_neighbors": _novelty,
    "novelty_database": _novelty,
    "novelty_held_out": _novelty,
    "copy_share": _copy_share,
    "fid_infinity": _fid_infinity,
    "kd": _kernel,
    "cmmd": _kernel,
    "mind": _mind,
    "vendi": _vendi,
}
