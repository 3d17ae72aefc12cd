"""Which cells cannot be the optimum any more, by paired intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from rdm_batch.metrics.pairing import Influences, paired_error
from rdm_batch.specs.scores import Score


@dataclass(frozen=True)
class Standing:
    """Hold how a cell stands: a score, and what every image does to it.

    Args:
        score: The score that is looked at.
        influences: On it.
    """

    score: Score
    influences: Influences


@dataclass(frozen=True)
class Verdict:
    """Say why a cell is ended.

    Args:
        best: Name of the cell it is worse than.
        worse_by: By how much, of the score, above zero.
        error: Standard error of that, paired.
    """

    best: str
    worse_by: float
    error: float


def best_of(scores: Mapping[str, Score]) -> str:
    """Name the cell with the best score; of equal ones the first."""
    better = next(iter(scores.values())).better
    sign = -1.0 if better == "higher" else 1.0
    return min(scores, key=lambda name: sign * scores[name].value)


def worse_cells(
    standings: Mapping[str, Standing], confidence: float, decisions: int
) -> dict[str, Verdict]:
    """Find the cells that are worse than the best one beyond what chance does.

    One-sided, each decision at ``(1 - confidence) / decisions`` (Bonferroni), by the normal
    distribution of the paired difference. Which cell is the best is chosen after the fact, so
    every ordered pair counts as a decision.

    Args:
        standings: Of the cells that are still made, all at the same samples.
        confidence: Of all decisions of the sweep together.
        decisions: How many pairs there are, over all looks.
    """
    best = best_of({name: standing.score for name, standing in standings.items()})
    margin = NormalDist().inv_cdf(1 - (1 - confidence) / max(1, decisions))
    leader = standings[best]
    found = {}
    for name, standing in standings.items():
        worse_by = abs(standing.score.value - leader.score.value)
        if name == best or worse_by == 0:
            continue
        error = paired_error(leader.influences, standing.influences)
        if worse_by > margin * error:
            found[name] = Verdict(best, worse_by, error)
    return found
