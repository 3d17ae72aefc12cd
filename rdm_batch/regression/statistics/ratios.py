"""How many times faster one checkout is than another, from runs taken in turn.

Runs go on until a look decides. Every look may err, so the level is shared between all of them
(Bonferroni): however early it stops, the chance of a wrong verdict stays below that of one test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from rdm_batch.errors import RegressionError
from rdm_batch.regression.statistics.equivalence import Outcome

LEAST_PAIRS = 6
"""With fewer there is no 95 % interval: all of five pairs agree by chance in 6 of 100 cases."""
MOST_PAIRS = 40
"""Unless somebody says otherwise: where runs move by 3 %, equal checkouts pass in 97 of 100 cases
within a tolerance of 3 % (docs/decisions/pairs-until-they-decide.md)."""
_LEVEL = 0.05
_LOOKS, _FIRST_LOOK, _GROWTH = 5, 8, 1.5
"""Eight pairs are the fewest that can decide at a fifth of the level: 2 / 2^8 = 0.8 %."""


@dataclass(frozen=True)
class Ratio:
    """Hold how many times a figure of the candidate is that of the baseline.

    Args:
        value: The middle of it.
        low: Start of its interval.
        high: End of it.
        pairs: How many it is from.
        confidence: At least, of the interval.
    """

    value: float
    low: float
    high: float
    pairs: int
    confidence: float = 1 - _LEVEL


def in_turn(pairs: int) -> list[Literal["A", "B"]]:
    """Give the order A B B A A B B A ... of so many runs of each.

    What drifts in a straight line over two pairs costs both sides the same.
    """
    order: list[Literal["A", "B"]] = []
    for pair in range(pairs):
        order += ["B", "A"] if pair % 2 else ["A", "B"]
    return order


def looks_of(most: int) -> tuple[int, ...]:
    """Say after how many pairs it is asked whether they decide: half as many more each time.

    Args:
        most: Pairs after which there are no more.

    Raises:
        RegressionError: They could decide nothing.
    """
    if most < LEAST_PAIRS:
        found = f"{most} of them"
        raise RegressionError("interleaved runs", found, f"{LEAST_PAIRS} pairs or more")
    sizes = [round(most / _GROWTH**number) for number in reversed(range(_LOOKS))]
    return (*(size for size in sizes[:-1] if size >= _FIRST_LOOK), most)


def ratio_of_pairs(
    baseline: Float64[np.ndarray, " pairs"],
    candidate: Float64[np.ndarray, " pairs"],
    looks: int = 1,
) -> Ratio:
    """Compare interleaved runs: the middle ratio of pairs, with the interval of signed ranks.

    The Hodges-Lehmann estimate of the logarithm of the ratio, and Tukey's interval for it
    (Hollander, Wolfe and Chicken 2014, Sec. 3.2 and 3.3): the median of the means of all pairs of
    pairs, and those of them that Wilcoxon's test leaves. It is exact for any distribution that is
    symmetric, as a difference of two runs of one program is; what the machine did to both runs of
    a pair cancels. Of normal noise it needs two thirds of the pairs that a ratio of medians does.

    Args:
        baseline: Figures of the one checkout, in the order of the pairs.
        candidate: Of the other; the runs that stood beside them.
        looks: How often pairs are asked whether they decide, this time and others.

    Raises:
        RegressionError: There are too few pairs, or a figure is not above 0.
    """
    pairs, level = len(baseline), _LEVEL / looks
    if 2.0 ** (1 - pairs) > level:
        least = math.ceil(1 - math.log2(level))
        found = f"{pairs} of them"
        raise RegressionError("ratio of interleaved runs", found, f"{least} pairs or more")
    both = np.concatenate([baseline, candidate])
    if not (np.isfinite(both).all() and (both > 0).all()):
        raise RegressionError(
            "ratio of interleaved runs", f"{both.min()}", "finite figures above 0"
        )
    logs = np.log(candidate / baseline)
    first, second = np.triu_indices(pairs)
    means = np.sort((logs[first] + logs[second]) / 2)
    left = _least_rank_sum(pairs, level)
    low, high = means[left - 1], means[len(means) - left]
    return Ratio(
        float(np.exp(np.median(means))),
        float(np.exp(low)),
        float(np.exp(high)),
        pairs,
        1 - level,
    )


def _least_rank_sum(pairs: int, level: float) -> int:
    """Give the largest c with P(W < c) <= level / 2, W the signed-rank statistic of no change."""
    # How many sets of ranks have each sum: a rank is in a set or it is not.
    ways = np.ones(1)
    for rank in range(1, pairs + 1):
        more = np.zeros(len(ways) + rank)
        more[: len(ways)] = ways
        more[rank:] += ways
        ways = more / 2
    return int(np.searchsorted(np.cumsum(ways), level / 2, side="right"))


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
