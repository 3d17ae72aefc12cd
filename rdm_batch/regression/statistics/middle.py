"""One figure of a night from many repeats."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64


def middle_half(values: Float64[np.ndarray, "nights repeats"]) -> Float64[np.ndarray, " nights"]:
    """Give the mean of the middle half of repeats, a mean trimmed by a quarter at either end.

    However far off a quarter of the repeats are, to either side, it stays among the others; of
    normal noise it moves from night to night by an eighth less than a median does (Rosenberger and
    Gasko 1983). A quarter is rounded up, as long as one repeat is left: of three or five values it
    is the median.

    Args:
        values: Of repeats, in any order.
    """
    count = values.shape[-1]
    cut = min(math.ceil(count / 4), (count - 1) // 2)
    middle: Float64[np.ndarray, " nights"] = np.sort(values, axis=-1)[..., cut : count - cut].mean(
        axis=-1
    )
    return middle
