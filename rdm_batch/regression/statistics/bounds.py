"""Where the value of one more run should lie, from runs with several seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float64

from rdm_batch.errors import RegressionError

LEAST_SEEDS = 3
"""Two say nothing of use: at 99 % the interval of a third is 78 times as wide as they are apart."""
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Bounds:
    """Hold two bounds; a value beyond either is wrong, better than possible as well as worse."""

    low: float
    high: float

    def side(self, value: float) -> str | None:
        """Say on which side a value lies outside; None inside. Not a number is outside."""
        if self.low <= value <= self.high:
            return None
        return "above" if value > self.high else "below"


def bounds_from_seeds(
    values: Float64[np.ndarray, " seeds"], confidence: float = CONFIDENCE
) -> Bounds:
    """Predict where the value of a further seed lies: ``mean +- t s sqrt(1 + 1/k)``.

    The prediction interval of one more of k normal values (Hahn and Meeker 1991, Sec. 4.7).

    Args:
        values: Scores of complete runs that differ in their seed alone.
        confidence: Share of right runs that lie inside.

    Raises:
        RegressionError: There are too few, or they are not finite.
    """
    if len(values) < LEAST_SEEDS or not np.isfinite(values).all():
        found = f"{len(values)} seeds" if np.isfinite(values).all() else f"{values.tolist()}"
        raise RegressionError("bounds from seeds", found, f"finite scores of {LEAST_SEEDS} or more")
    quantile = float(scipy.stats.t.isf((1 - confidence) / 2, len(values) - 1))
    reach = quantile * float(values.std(ddof=1)) * math.sqrt(1 + 1 / len(values))
    middle = float(values.mean())
    return Bounds(middle - reach, middle + reach)
