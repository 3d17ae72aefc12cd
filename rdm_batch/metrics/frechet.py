"""Frechet distance between Gaussians fitted to features (FID, CLIP-FID, FD-DINOv2, sFID)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.moments import GaussianStatistics

# Square roots of eigenvalues below this part of the largest are rounding noise.
_ROUNDING = 1e-7


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
        roots = np.sqrt(np.clip(np.linalg.eigvalsh(self._project(other)), 0, None))
        return self._distance(other, roots[len(roots) - self._rank(other) :])

    def distance_and_gradient(
        self, other: GaussianStatistics
    ) -> tuple[float, Float64[np.ndarray, "d rank"]]:
        """Compute the distance, and how it changes with the covariance of the other Gaussian.

        Returns:
            The distance, and ``G`` with ``G G^T`` the derivative of ``2 tr (S1 S2)^(1/2)`` by
            ``S2``. Directions in which ``S2`` has no variance are left out: no sample moves it
            there.

        Raises:
            MetricError: The widths differ.
        """
        eigenvalues, vectors = np.linalg.eigh(self._project(other))
        kept = len(eigenvalues) - self._rank(other)
        roots = np.sqrt(np.clip(eigenvalues[kept:], 0, None))
        above_noise = roots > _ROUNDING * roots[-1:]
        chosen = vectors[:, kept:][:, above_noise] / np.sqrt(roots[above_noise])
        return self._distance(other, roots), self._root.T @ chosen

    def _project(self, other: GaussianStatistics) -> Float64[np.ndarray, "rank rank"]:
        """Return ``R S2 R^T``."""
        if self.statistics.mean.shape != other.mean.shape:
            raise MetricError(
                "Frechet distance",
                f"{other.mean.size}-dimensional features against "
                f"{self.statistics.mean.size}-dimensional ones",
                "features of the same extractor and layer",
            )
        projected = self._root @ other.covariance @ self._root.T
        symmetric: Float64[np.ndarray, "rank rank"] = (projected + projected.T) / 2
        return symmetric

    def _rank(self, other: GaussianStatistics) -> int:
        """Give the highest rank that ``R S2 R^T`` can have.

        A covariance of n samples has n - 1 at most: eigenvalues beyond it are rounding noise
        whose square roots would count.
        """
        return min(len(self._root), _max_rank(other))

    def _distance(self, other: GaussianStatistics, roots: Float64[np.ndarray, " rank"]) -> float:
        difference = self.statistics.mean - other.mean
        traces = self._trace + float(np.trace(other.covariance))
        return max(0.0, float(difference @ difference + traces - 2 * roots.sum()))


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
