"""How many samples a comparison needs, and what it sees with those it has."""

from __future__ import annotations

import math

import scipy.optimize
import scipy.stats

from rdm_batch.errors import RegressionError
from rdm_batch.regression.statistics.equivalence import ALPHA, POWER


def equivalence_power(
    deviation: float, samples: int, margin: float, difference: float = 0.0, alpha: float = ALPHA
) -> float:
    """Give the chance that ``equivalence`` passes.

    ``P(|d| + t e < margin)`` with the error e taken as known:
    ``F((margin - difference) / e - t) - F((-margin - difference) / e + t)``, F the normal
    distribution (Chow, Shao and Wang 2008, Sec. 3.3).

    Args:
        deviation: Standard deviation of a sample's difference (of influences, where they are
            paired), above 0.
        samples: How many, 2 or more.
        margin: As of the test.
        difference: The true one.
        alpha: As of the test.
    """
    _positive(deviation, margin)
    error = deviation / math.sqrt(samples)
    quantile = float(scipy.stats.t.isf(alpha, samples - 1))
    upper = scipy.stats.norm.cdf((margin - difference) / error - quantile)
    lower = scipy.stats.norm.cdf((-margin - difference) / error + quantile)
    return max(0.0, float(upper - lower))


def samples_to_pass(
    deviation: float, margin: float, difference: float = 0.0, power: float = POWER
) -> int | None:
    """Give the fewest samples with which ``equivalence`` passes with some power.

    None where the true difference is not below the margin: no number would do.

    Args:
        deviation: As of ``equivalence_power``.
        margin: As of the test.
        difference: The true one.
        power: Chance of passing, below 1.
    """
    _positive(deviation, margin)
    if abs(difference) >= margin:
        return None
    few, many = 1, 2
    while equivalence_power(deviation, many, margin, difference) < power:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        if equivalence_power(deviation, middle, margin, difference) < power:
            few = middle
        else:
            many = middle
    return many


def detectable(deviation: float, samples: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """Give the smallest difference that a two-sided test against zero finds with some power.

    Args:
        deviation: Standard deviation of a sample's difference, above 0.
        samples: How many, 2 or more.
        alpha: Level of the test.
        power: Chance of finding it.
    """
    _positive(deviation, 1.0)
    freedom, error = samples - 1, deviation / math.sqrt(samples)
    critical = float(scipy.stats.t.isf(alpha / 2, freedom))

    def missing(shift: float) -> float:
        found = scipy.stats.nct.sf(critical, freedom, shift)
        return power - float(found + scipy.stats.nct.cdf(-critical, freedom, shift))

    highest = critical + float(scipy.stats.norm.isf(1 - power)) + 5
    return error * float(scipy.optimize.brentq(missing, 1e-9, highest))


def _positive(deviation: float, margin: float) -> None:
    if not (deviation > 0 and margin > 0):
        found = f"standard deviation {deviation}, margin {margin}"
        raise RegressionError("power", found, "numbers above 0")
