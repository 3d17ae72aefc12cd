"""How sure a score is: infinitesimal jackknife and standard errors of means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64

from rdm_batch.metrics.frechet import FrechetReference, frechet_distance
from rdm_batch.metrics.moments import GaussianStatistics, gaussian_statistics

MIN_SAMPLES = 20
"""Fewer say too little of how much a distance moves with its samples."""
SHARE_METHOD = (
    "sqrt(p (1 - p) / n): the limit of resampling the judged side, manifold held fixed; no cost"
)
MEAN_METHOD = "standard error of the mean over samples; no cost"
_AT_ONCE = 4_096


@dataclass(frozen=True)
class Estimate:
    """Hold a score and the influence of each image judged on it."""

    value: float
    influences: Float64[np.ndarray, " n"]

    @property
    def error(self) -> float:
        """Return the standard error over the images judged."""
        return float(self.influences.std(ddof=1)) / math.sqrt(len(self.influences))


def estimate_frechet(
    features: Float32[np.ndarray, "n d"], reference: GaussianStatistics | FrechetReference
) -> Estimate:
    """Compute a Frechet distance and estimate its standard error over the generated samples.

    By the infinitesimal jackknife (Efron 1982, Sec. 6): each sample's weight is varied by a
    little, and what that does to the distance is its influence,
    ``2 (m2 - m1).x + |x|^2 - |G^T x|^2`` of a centered sample x, less the mean (see
    ``FrechetReference.distance_and_gradient``). The reference is held fixed, as it is between
    the scores that are compared. With fewer samples than dimensions, or where both sides have
    one distribution, the error comes out too large, measured up to twice.

    Cost: eigenvectors instead of eigenvalues, and one product with the features.

    Args:
        features: Generated features; at least ``MIN_SAMPLES`` rows.
        reference: Reference Gaussian, prepared or not.

    Raises:
        MetricError: The widths differ, or features are not finite.
    """
    generated = gaussian_statistics(features)
    prepared = reference if isinstance(reference, FrechetReference) else FrechetReference(reference)
    value, gradient = prepared.distance_and_gradient(generated)
    if len(features) <= features.shape[1]:
        # Fewer samples than dimensions: decomposing their own covariance is more accurate.
        value = frechet_distance(generated, prepared.statistics)
    towards = 2 * (generated.mean - prepared.statistics.mean)
    influences = np.empty(len(features))
    for start in range(0, len(features), _AT_ONCE):
        centered = features[start : start + _AT_ONCE].astype(np.float64) - generated.mean
        by_mean = centered @ towards
        by_covariance = np.square(centered).sum(1) - np.square(centered @ gradient).sum(1)
        influences[start : start + _AT_ONCE] = by_mean + by_covariance
    return Estimate(value, influences)


def share_error(inside: Bool[np.ndarray, " n"]) -> float:
    """Compute the standard error of a share: ``sqrt(p (1 - p) / n)``.

    The limit of the bootstrap over the judged samples, with what judges them held fixed. It
    costs nothing.
    """
    share = float(inside.mean())
    return math.sqrt(share * (1 - share) / len(inside))


def mean_error(values: Float64[np.ndarray, " n"]) -> float | None:
    """Compute the standard error of a mean; None for a single value. It costs nothing."""
    if len(values) < 2:
        return None
    return float(values.std(ddof=1)) / math.sqrt(len(values))
