"""Frechet distance between Gaussians fitted to features (FID, CLIP-FID, FD-DINOv2, sFID)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.moments import GaussianStatistics


class FrechetReference:
    """Hold one Gaussian prepared for many distances to it.

    The square root ``R`` of its covariance (``R^T R = S1``) costs one symmetric eigenvalue
    problem; each distance then costs one more.

    Args:
        statistics: The Gaussian distances are taken to.
    """

    def __init__(self, statistics: GaussianStatistics) -> None:
        self.statistics = statistics
        self._root = _square_root(statistics)
        self._trace = float(np.trace(statistics.covariance))

    def distance(self, other: GaussianStatistics) -> float:
        """Compute the squared Frechet distance (Dowson & Landau 1982; Heusel et al. 2017).

        ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``. The eigenvalues of ``S1 S2`` are those
        of the symmetric matrix ``R S2 R^T``, so they are real and, up to rounding, not negative.

        Raises:
            MetricError: The widths differ.
        """
        if self.statistics.mean.shape != other.mean.shape:
            raise MetricError(
                "Frechet distance",
                f"{other.mean.size}-dimensional features against "
                f"{self.statistics.mean.size}-dimensional ones",
                "features of the same extractor and layer",
            )
        projected = self._root @ other.covariance @ self._root.T
        trace = float(np.trace(other.covariance))
        return self.distance_of_projection(other.mean, trace, projected, _max_rank(other))

    def project(self, features: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n rank"]:
        """Return ``x R^T`` for each row: the covariance of these is ``R S2 R^T``."""
        projected: Float64[np.ndarray, "n rank"] = features @ self._root.T
        return projected

    def distance_of_projection(
        self,
        mean: Float64[np.ndarray, " d"],
        trace: float,
        projected: Float64[np.ndarray, "rank rank"],
        max_rank: int,
    ) -> float:
        """Compute the distance to a Gaussian whose covariance is known only as projected.

        Args:
            mean: Its mean ``m2``.
            trace: Trace of ``S2``.
            projected: ``R S2 R^T``.
            max_rank: Highest rank ``S2`` can have: a covariance of n samples has n - 1 at most.
                Eigenvalues beyond it are rounding noise whose square roots would count.
        """
        eigenvalues = np.linalg.eigvalsh((projected + projected.T) / 2)
        kept = min(len(eigenvalues), max_rank)
        roots = np.sqrt(np.clip(eigenvalues[len(eigenvalues) - kept :], 0, None))
        difference = self.statistics.mean - mean
        distance = difference @ difference + self._trace + trace - 2 * roots.sum()
        return max(0.0, float(distance))


def frechet_distance(first: GaussianStatistics, second: GaussianStatistics) -> float:
    """Compute the squared Frechet distance between two Gaussians.

    Symmetric to rounding. Of the two, the one of lower possible rank is decomposed: cheaper, and
    more accurate with fewer samples than dimensions.

    Raises:
        MetricError: The widths differ.
    """
    if _max_rank(second) < _max_rank(first):
        first, second = second, first
    return FrechetReference(first).distance(second)


def _max_rank(statistics: GaussianStatistics) -> int:
    dim = statistics.mean.size
    return dim if statistics.count is None else min(dim, statistics.count - 1)


def _square_root(statistics: GaussianStatistics) -> Float64[np.ndarray, "rank d"]:
    eigenvalues, eigenvectors = np.linalg.eigh(statistics.covariance)
    kept = len(eigenvalues) - _max_rank(statistics)
    roots = np.sqrt(np.clip(eigenvalues[kept:], 0, None))
    root: Float64[np.ndarray, "rank d"] = (eigenvectors[:, kept:] * roots).T
    return root
