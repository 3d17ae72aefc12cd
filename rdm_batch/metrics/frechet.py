"""Frechet distance between Gaussians fitted to features (FID, CLIP-FID, FD-DINOv2, sFID)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.moments import GaussianStatistics


class FrechetReference:
    """Hold one Gaussian prepared for many distances to it.

    The square root of its covariance costs one symmetric eigenvalue problem; each distance
    then costs one more.

    Args:
        statistics: The Gaussian distances are taken to.
    """

    def __init__(self, statistics: GaussianStatistics) -> None:
        self.statistics = statistics
        self._root = _square_root(statistics)

    def distance(self, other: GaussianStatistics) -> float:
        """Compute the squared Frechet distance (Dowson & Landau 1982; Heusel et al. 2017).

        ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``. The eigenvalues of ``S1 S2`` are those
        of the symmetric matrix ``R S2 R^T`` with ``R^T R = S1``, so they are real and, up to
        rounding, not negative. A covariance of n samples has rank n - 1 at most; eigenvalues
        beyond it are rounding noise whose square root would count, and are left out.

        Raises:
            MetricError: The widths differ.
        """
        mine = self.statistics
        if mine.mean.shape != other.mean.shape:
            raise MetricError(
                "Frechet distance",
                f"{other.mean.size}-dimensional features against {mine.mean.size}-dimensional ones",
                "features of the same extractor and layer",
            )
        product = self._root @ other.covariance @ self._root.T
        eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
        rank = min(len(eigenvalues), _max_rank(other))
        roots = np.sqrt(np.clip(eigenvalues[len(eigenvalues) - rank :], 0, None))
        difference = mine.mean - other.mean
        distance = (
            difference @ difference
            + np.trace(mine.covariance)
            + np.trace(other.covariance)
            - 2 * roots.sum()
        )
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
