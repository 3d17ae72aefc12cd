"""Whether a difference is small, large, or not known well enough: two one-sided tests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import scipy.stats

from rdm_batch.errors import RegressionError

Outcome = Literal["pass", "fail", "undecided"]
ALPHA = 0.01
"""Of each of the one-sided tests: what has moved by the whole margin passes so often at most
(docs/decisions/equivalence-at-one-percent.md)."""
POWER = 0.9
"""With which ``needed`` samples decide, if the difference is what it seems to be."""


@dataclass(frozen=True)
class Equivalence:
    """Say what a difference is against what it may be.

    Args:
        outcome: ``pass`` where the interval lies inside the margin, ``fail`` where it lies outside,
            else ``undecided``.
        difference: As observed.
        low: Lower end of its interval.
        high: Upper end.
        margin: What it may be, to either side.
        samples: How many it was observed with.
        p_equivalent: Of the two one-sided tests: small where the difference is surely small.
        p_different: Small where the difference is surely larger than the margin.
        needed: Samples that would decide. None where these do, or none would: a difference that
            is just the margin is neither.
        confidence: Of the interval.
    """

    outcome: Outcome
    difference: float
    low: float
    high: float
    margin: float
    samples: int
    p_equivalent: float
    p_different: float
    needed: int | None = None
    confidence: float = 1 - 2 * ALPHA


def equivalence(
    difference: float, error: float, samples: int, margin: float, alpha: float = ALPHA
) -> Equivalence:
    """Test whether a mean difference lies within a margin (Schuirmann 1987).

    The interval ``difference +- t error`` at ``1 - 2 alpha``, t with ``samples - 1`` degrees of
    freedom, decides; that is the same as two one-sided tests at ``alpha`` each.

    Args:
        difference: Observed, of either sign.
        error: Its standard error, that of pairs where there are pairs. Zero says that nothing
            differs but by the difference itself.
        samples: How many it rests on, 2 or more.
        margin: Largest difference that does not matter, above 0, in the unit of the difference.
        alpha: Level of each test, below 0.5.

    Raises:
        RegressionError: A number is not finite, or out of its range.
    """
    _check(difference, error, samples, margin, alpha)
    freedom = samples - 1
    if error == 0:
        p_equivalent = float(abs(difference) >= margin)
        p_different = float(abs(difference) <= margin)
    else:
        p_equivalent = float(scipy.stats.t.sf((margin - abs(difference)) / error, freedom))
        p_different = float(scipy.stats.t.sf((abs(difference) - margin) / error, freedom))
    reach = float(scipy.stats.t.isf(alpha, freedom)) * error
    outcome = decided(p_equivalent, p_different, alpha)
    needed = None
    if outcome == "undecided":
        needed = _needed(abs(abs(difference) - margin), error * math.sqrt(samples), samples, alpha)
    return Equivalence(
        outcome=outcome,
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        margin=margin,
        samples=samples,
        p_equivalent=p_equivalent,
        p_different=p_different,
        needed=needed,
        confidence=1 - 2 * alpha,
    )


def decided(p_equivalent: float, p_different: float, alpha: float = ALPHA) -> Outcome:
    """Say what two probabilities of error amount to; both below a half are never small at once."""
    if p_equivalent < alpha:
        return "pass"
    return "fail" if p_different < alpha else "undecided"


def _needed(distance: float, deviation: float, samples: int, alpha: float) -> int | None:
    """Give the samples with which an interval would clear a distance, with ``POWER``."""
    if distance == 0:
        return None
    needed = samples + 1
    # The quantile falls as samples grow: three rounds settle what is left of it.
    for _ in range(3):
        reach = scipy.stats.t.isf(alpha, needed - 1) + scipy.stats.norm.isf(1 - POWER)
        wanted = (float(reach) * deviation / distance) ** 2
        if wanted > 1e15:
            return None
        needed = max(samples + 1, math.ceil(wanted))
    return needed


def _check(difference: float, error: float, samples: int, margin: float, alpha: float) -> None:
    where = "equivalence"
    if not all(map(math.isfinite, (difference, error, margin))) or error < 0:
        found = f"difference {difference}, standard error {error}, margin {margin}"
        raise RegressionError(where, found, "finite numbers and an error of 0 or more")
    if samples < 2:
        raise RegressionError(where, f"{samples} samples", "2 or more")
    if margin <= 0 or not 0 < alpha < 0.5:
        found = f"margin {margin}, level {alpha}"
        raise RegressionError(where, found, "a margin above 0 and a level between 0 and 0.5")
