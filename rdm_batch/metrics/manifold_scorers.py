"""Scores of neighborhoods, as ``metrics.scorers`` computes them: several from one pass."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool

from rdm_batch.metrics.clipped_scores import clipped_scores
from rdm_batch.metrics.evaluation import Evaluation
from rdm_batch.metrics.manifold_scores import manifold_scores
from rdm_batch.metrics.pairing import mean_influences, share_influences
from rdm_batch.metrics.resampling import (
    MEAN_METHOD,
    SHARE_METHOD,
    Estimate,
    mean_error,
    share_error,
)
from rdm_batch.specs.scores import SCORES, Score, ScoreKind


def manifold(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
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
        add("precision", settings.k, first.precision, error, SHARE_METHOD)
        error = share_error(first.reference_inside)
        add("recall", settings.k, first.recall, error, SHARE_METHOD)
    if second is not None:
        per_sample = second.balls / second.k
        evaluation.keep_influences("density", lambda: mean_influences(per_sample))
        keep("coverage", second.covered, "reference")
        spread = mean_error(second.balls / second.k)
        add("density", second.k, second.density, spread, MEAN_METHOD)
        add("coverage", second.k, second.coverage, share_error(second.covered), SHARE_METHOD)
    return scores


def clipped(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    """Compute clipped density and coverage; one costs next to nothing beside the other."""
    layer, settings = evaluation.layer_of(kind), evaluation.settings
    reference = evaluation.need_reference(kind.id).rows(layer)
    found = clipped_scores(
        evaluation.rows(layer),
        reference,
        settings.density_k,
        settings.block_size,
        evaluation.runner,
    )

    def score(name: str, estimate: Estimate, over: Literal["samples", "reference"]) -> Score:
        evaluation.keep_influences(name, lambda: estimate.influences, over)
        side = "samples" if over == "samples" else "images of the reference"
        return Score(
            value=estimate.value,
            uncertainty=estimate.error,
            uncertainty_method=f"standard error of the mean over {side}, times the slope of the "
            "scale, the other side held fixed; no cost",
            description=evaluation.describe(SCORES[name], layer, len(reference), k=found.k),
        )

    return [
        score("clipped_density", found.density, "samples"),
        score("clipped_coverage", found.coverage, "reference"),
    ]
