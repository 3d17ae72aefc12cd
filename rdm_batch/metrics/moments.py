"""Mean and covariance of features, accumulated in float64 and merged exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

from rdm_batch.errors import MetricError

# Rows copied to float64 at a time: bounds the copy to 64 MiB at 2,048 dimensions.
_ROWS_PER_BLOCK = 4096


def require_finite(where: str, features: Float32[np.ndarray, "n d"]) -> None:
    """Refuse features with NaN or infinite values.

    Raises:
        MetricError: A row is not finite; names the first one and how many there are.
    """
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise MetricError(
            where,
            f"{bad.size:,} of {len(features):,} feature rows are NaN or infinite, "
            f"row {bad[0]} first",
            "finite features",
            "look at the images of these rows",
        )


def require_rows(where: str, features: Float32[np.ndarray, "n d"], least: int = 2) -> None:
    """Refuse sets too small to be compared.

    Raises:
        MetricError: There are fewer rows.
    """
    if len(features) < least:
        raise MetricError(where, f"{len(features)} samples", f"{least} or more")


@dataclass(frozen=True)
class GaussianStatistics:
    """Hold the mean and the unbiased covariance of one feature layer.

    Args:
        mean: Mean feature.
        covariance: Covariance with divisor ``count - 1``.
        count: Samples behind the numbers. None when a file does not say (ADM npz).
    """

    mean: Float64[np.ndarray, " d"]
    covariance: Float64[np.ndarray, "d d"]
    count: int | None


class MomentAccumulator:
    """Accumulate count, mean and scatter matrix of features.

    Two accumulators merge by the pairwise update of Chan, Golub & LeVeque (1979, Eq. 2.1),
    which never forms the difference of two large sums: a mean far from zero costs no
    digits. Result and merge order agree to rounding.

    Args:
        dim: Feature width.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean: Float64[np.ndarray, " d"] = np.zeros(dim)
        self.scatter: Float64[np.ndarray, "d d"] = np.zeros((dim, dim))

    def update(self, features: Float[np.ndarray, "n d"]) -> None:
        """Add rows."""
        for start in range(0, len(features), _ROWS_PER_BLOCK):
            block = features[start : start + _ROWS_PER_BLOCK].astype(np.float64)
            mean = block.mean(axis=0)
            block -= mean
            self._combine(len(block), mean, block.T @ block)

    def merge(self, other: MomentAccumulator) -> None:
        """Add everything another accumulator has seen."""
        if other.count:
            self._combine(other.count, other.mean, other.scatter)

    def finalise(self, where: str = "features") -> GaussianStatistics:
        """Return mean and covariance.

        Raises:
            MetricError: Fewer than two rows were added.
        """
        if self.count < 2:
            raise MetricError(where, f"{self.count} samples", "at least 2 for a covariance")
        return GaussianStatistics(self.mean.copy(), self.scatter / (self.count - 1), self.count)

    def _combine(
        self, count: int, mean: Float64[np.ndarray, " d"], scatter: Float64[np.ndarray, "d d"]
    ) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(delta, delta * (self.count * count / total))
        self.mean = self.mean + delta * (count / total)
        self.count = total


def gaussian_statistics(
    features: Float[np.ndarray, "n d"], where: str = "features"
) -> GaussianStatistics:
    """Return mean and covariance of a whole feature array.

    Raises:
        MetricError: Fewer than two rows.
    """
    accumulator = MomentAccumulator(features.shape[1])
    accumulator.update(features)
    return accumulator.finalise(where)
