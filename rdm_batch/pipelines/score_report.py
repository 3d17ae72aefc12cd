"""From what an evaluation found to what a report says of it."""

from __future__ import annotations

from collections.abc import Sequence

from rdm_batch.metrics.score import Score
from rdm_batch.reports import result


def reported(scores: Sequence[Score]) -> tuple[result.Score, ...]:
    """Give scores the names and the form in which reports show them."""
    return tuple(
        result.Score.named(
            score.name,
            score.value,
            score.uncertainty,
            score.uncertainty_method,
            score.description.model_dump(exclude={"name"}),
        )
        for score in scores
    )
