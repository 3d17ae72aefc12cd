"""How many times faster one checkout is than another, from runs taken in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from rdm_batch.errors import RegressionError
from rdm_batch.regression.statistics.equivalence import Outcome

LEAST_PAIRS = 5
"""With fewer, the smallest and the largest of all pairs lie closer than a 90 % interval should."""
_RESAMPLES = 10_000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """Hold a ratio of medians, candidate over baseline, and its bootstrap interval."""

    value: float
    low: float
    high: float
    pairs: int


def in_turn(pairs: int) -> list[Literal["A", "B"]]:
    """Give the order A B B A A B B A ... of so many runs of each.

    What drifts in a straight line over two pairs costs both sides the same.
    """
    order: list[Literal["A", "B"]] = []
    for pair in range(pairs):
        order += ["B", "A"] if pair % 2 else ["A", "B"]
    return order


def ratio_of_medians(
    baseline: Float64[np.ndarray, " pairs"],
    candidate: Float64[np.ndarray, " pairs"],
    confidence: float = _CONFIDENCE,
) -> Ratio:
    """Compare interleaved runs: the ratio of medians, with a percentile bootstrap over pairs.

    Pairs are drawn whole (Efron and Tibshirani 1993, Ch. 13), so that what the machine did to
    both runs of a pair stays in both. The draws come from a fixed seed: equal runs have equal
    intervals. With five pairs the interval goes from about the smallest to the largest.

    Args:
        baseline: Figures of the one checkout, in the order of the pairs.
        candidate: Of the other; the runs that stood beside them.
        confidence: Of the interval.

    Raises:
        RegressionError: There are too few pairs, or a figure is not above 0.
    """
    if len(baseline) < LEAST_PAIRS:
        found = f"{len(baseline)} of them"
        raise RegressionError("ratio of interleaved runs", found, f"{LEAST_PAIRS} pairs or more")
    both = np.concatenate([baseline, candidate])
    if not (np.isfinite(both).all() and (both > 0).all()):
        raise RegressionError(
            "ratio of interleaved runs", f"{both.min()}", "finite figures above 0"
        )
    pairs = len(baseline)
    drawn = np.random.default_rng(0).integers(0, pairs, (_RESAMPLES, pairs))
    ratios = np.median(candidate[drawn], axis=1) / np.median(baseline[drawn], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Ratio(float(np.median(candidate) / np.median(baseline)), float(low), float(high), pairs)


def judge_ratio(ratio: Ratio, tolerance: float, better: Literal["lower", "higher"]) -> Outcome:
    """Say whether the candidate is slower by more than is tolerated.

    ``pass`` where the whole interval is within the tolerance or better, ``fail`` where all of it is
    worse, else ``undecided``.

    Args:
        ratio: Candidate over baseline.
        tolerance: Largest part by which a figure may get worse, above 0 and below 1.
        better: Of the figure: higher for rates, lower for times and memory.
    """
    if better == "higher":
        worst, best, limit = ratio.low, ratio.high, 1 - tolerance
    else:
        worst, best, limit = 1 / ratio.high, 1 / ratio.low, 1 / (1 + tolerance)
    if worst >= limit:
        return "pass"
    return "fail" if best < limit else "undecided"


def pairs_that_decide(ratio: Ratio, tolerance: float, better: Literal["lower", "higher"]) -> int:
    """Say how many pairs would decide, if the ratio stays and its interval narrows as their root.

    Args:
        ratio: One that does not decide yet.
        tolerance: As in ``judge_ratio``.
        better: As in ``judge_ratio``.
    """
    limit = 1 - tolerance if better == "higher" else 1 + tolerance
    # From the ratio towards the limit, and no further than a hundredth of what is tolerated.
    distance = max(abs(ratio.value - limit), tolerance / 100)
    reach = max(ratio.high - ratio.value, ratio.value - ratio.low)
    return max(ratio.pairs + 1, int(np.ceil(ratio.pairs * (reach / distance) ** 2)))
