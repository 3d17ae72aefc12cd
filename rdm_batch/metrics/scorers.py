"""Every score by name: how it is computed, with which uncertainty, described how."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.clip_score import SCALE, clip_scores
from rdm_batch.metrics.evaluation import LOGITS_LAYER, SPATIAL_LAYER, Evaluation
from rdm_batch.metrics.features import EncoderFeatures
from rdm_batch.metrics.frechet import frechet_distance
from rdm_batch.metrics.inception_score import inception_score
from rdm_batch.metrics.kernel_distance import kernel_distance
from rdm_batch.metrics.manifold_scores import manifold_scores
from rdm_batch.metrics.resampling import (
    MIN_SAMPLES,
    estimate_frechet,
    mean_error,
    share_error,
)
from rdm_batch.metrics.score import Score, ScoreDescription

_SHARE_METHOD = (
    "sqrt(p (1 - p) / n): the limit of resampling the judged side, manifold held fixed; no cost"
)
_MEAN_METHOD = "standard error of the mean over samples; no cost"


def _fid(evaluation: Evaluation) -> list[Score]:
    return [_frechet(evaluation, "fid", evaluation.main_layer)]


def _sfid(evaluation: Evaluation) -> list[Score]:
    _require_layer(evaluation, "sfid", SPATIAL_LAYER, "spatial features (inception-v3-compat)")
    return [_frechet(evaluation, "sfid", SPATIAL_LAYER)]


def _clip_fid(evaluation: Evaluation) -> list[Score]:
    _require_layer(evaluation, "clip_fid", EncoderFeatures.LAYER, "an image-text encoder")
    return [_frechet(evaluation, "clip_fid", EncoderFeatures.LAYER)]


def _frechet(evaluation: Evaluation, name: str, layer: str) -> Score:
    reference = evaluation.need_reference(name).gaussian(layer)
    if not evaluation.knows_rows:
        value, error = frechet_distance(evaluation.gaussian(layer), reference), None
        method = "not computed: only the moments of the samples are known"
    elif len(rows := evaluation.rows(layer)) < MIN_SAMPLES:
        value, error = frechet_distance(evaluation.gaussian(layer), reference), None
        method = f"not computed: fewer than {MIN_SAMPLES} samples"
    else:
        estimate = estimate_frechet(rows, reference)
        value, error = estimate.value, estimate.error
        method = "infinitesimal jackknife over the samples; eigenvectors and one product"
    return Score(
        value=value,
        uncertainty=error,
        uncertainty_method=method,
        description=evaluation.describe(name, layer, reference.count),
    )


def _kid(evaluation: Evaluation) -> list[Score]:
    layer, settings = evaluation.main_layer, evaluation.settings
    reference = evaluation.need_reference("kid").rows(layer)
    distance = kernel_distance(
        evaluation.rows(layer),
        reference,
        settings.subsets,
        settings.subset_size,
        settings.seed,
        evaluation.runner,
    )
    description = evaluation.describe(
        "kid",
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


def _is(evaluation: Evaluation) -> list[Score]:
    _require_layer(evaluation, "is", LOGITS_LAYER, "class logits (inception-v3-compat)")
    settings = evaluation.settings
    logits = evaluation.rows(LOGITS_LAYER)
    result = inception_score(logits, settings.splits, settings.seed)
    return [
        Score(
            value=result.mean,
            uncertainty=result.std,
            uncertainty_method="standard deviation between splits; no cost",
            description=evaluation.describe(
                "is",
                LOGITS_LAYER,
                seed=settings.seed,
                with_reference=False,
                splits=settings.splits,
            ),
        )
    ]


def _manifold(evaluation: Evaluation) -> list[Score]:
    """Compute whichever of the four are wanted; they share most of the work."""
    wanted, settings = set(evaluation.names), evaluation.settings
    layer = evaluation.main_layer
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

    def add(name: str, k: int, value: float, error: float | None, method: str) -> None:
        description = evaluation.describe(name, layer, len(reference), k=k)
        scores.append(
            Score(
                value=value,
                uncertainty=error,
                uncertainty_method=method,
                description=description,
            )
        )

    first, second = result.precision_recall, result.density_coverage
    if first is not None:
        evaluation.findings.precision_recall = first
        error = share_error(first.generated_inside)
        add("precision", settings.k, first.precision, error, _SHARE_METHOD)
        error = share_error(first.reference_inside)
        add("recall", settings.k, first.recall, error, _SHARE_METHOD)
    if second is not None:
        spread = mean_error(second.balls / second.k)
        add("density", second.k, second.density, spread, _MEAN_METHOD)
        add("coverage", second.k, second.coverage, share_error(second.covered), _SHARE_METHOD)
    return scores


def _clip_score(evaluation: Evaluation) -> list[Score]:
    texts = evaluation.side_data.texts
    if texts is None:
        raise MetricError(
            "clip_score",
            "no prompt embeddings",
            "samples with prompts and a CLIP extractor",
            "leave clip_score out for sets that were not made from text",
        )
    layer = evaluation.main_layer
    values = clip_scores(evaluation.rows(layer), texts)
    description = evaluation.describe("clip_score", layer, with_reference=False, scale=SCALE)
    return [_mean_score(values, description)]


def _novelty(name: str) -> Callable[[Evaluation], list[Score]]:
    def scorer(evaluation: Evaluation) -> list[Score]:
        novelty = evaluation.side_data.novelty
        values = None if novelty is None else novelty.of(name)
        if novelty is None or values is None:
            raise MetricError(
                name,
                "the distances it is made of are missing",
                "a sample set with its database, and the database's encoder as extractor",
            )
        layer = evaluation.main_layer
        held_out = name == "novelty_held_out"
        description = evaluation.describe(
            name,
            layer,
            len(values) if held_out else None,
            with_reference=held_out,
            database=novelty.database,
            distance="1 - cosine",
        )
        return [_mean_score(values, description)]

    return scorer


def _mean_score(values: Float64[np.ndarray, " n"], description: ScoreDescription) -> Score:
    return Score(
        value=math.fsum(values) / len(values),
        uncertainty=mean_error(values),
        uncertainty_method=_MEAN_METHOD,
        description=description,
    )


def _require_layer(evaluation: Evaluation, name: str, layer: str, what: str) -> None:
    extractor = evaluation.generated.extractor
    if layer not in extractor.layers:
        raise MetricError(name, f"{extractor.name} has no layer {layer!r}", f"{what}")


SCORERS: dict[str, Callable[[Evaluation], list[Score]]] = {
    "fid": _fid,
    "precision": _manifold,
    "recall": _manifold,
    "density": _manifold,
    "coverage": _manifold,
    "kid": _kid,
    "is": _is,
    "sfid": _sfid,
    "clip_fid": _clip_fid,
    "clip_score": _clip_score,
    "novelty_neighbors": _novelty("novelty_neighbors"),
    "novelty_database": _novelty("novelty_database"),
    "novelty_held_out": _novelty("novelty_held_out"),
}
