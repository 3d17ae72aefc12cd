"""How sure a score is: delete-a-group jackknife and standard errors of means."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from threadpoolctl import threadpool_limits

from rdm_batch.metrics.frechet import FrechetReference, frechet_distance
from rdm_batch.metrics.moments import (
    GaussianStatistics,
    MomentAccumulator,
    gaussian_statistics,
)

JACKKNIFE_GROUPS = 10
# Each holds four matrices: 128 MiB at 2,048 dimensions.
_MAX_PROBLEMS = 4


def jackknife_error(values: Sequence[float]) -> float:
    """Compute the delete-a-group jackknife standard error (Shao & Tu 1995, Sec. 2.3).

    Args:
        values: The score without each group in turn.
    """
    array = np.asarray(values, dtype=np.float64)
    groups = len(array)
    return math.sqrt((groups - 1) / groups * float(np.square(array - array.mean()).sum()))


def random_groups(count: int, groups: int, seed: int) -> list[Int64[np.ndarray, " rows"]]:
    """Cut ``range(count)`` into random groups of equal size, to one row."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    return [np.sort(part) for part in np.array_split(order, groups)]


@dataclass(frozen=True)
class ResampledDistance:
    """Hold a Frechet distance and its standard error over the generated samples."""

    value: float
    error: float


def resampled_frechet(
    features: Float32[np.ndarray, "n d"],
    reference: GaussianStatistics,
    groups: int,
    seed: int,
) -> ResampledDistance:
    """Compute a Frechet distance and estimate its standard error over the generated samples.

    Cost: one symmetric eigenvalue problem with vectors, one product and the moments of the
    projected features, and ``groups + 1`` eigenvalue problems without vectors. The reference is
    held fixed, as it is between the scores that are compared.

    Args:
        features: Generated features; at least ``2 * groups`` rows.
        reference: Reference Gaussian.
        groups: Groups left out in turn.
        seed: Seed of the grouping.
    """
    prepared = FrechetReference(reference)
    mean = features.mean(axis=0, dtype=np.float64)
    parts = []
    for rows in random_groups(len(features), groups, seed):
        centered = features[rows].astype(np.float64) - mean
        projected = prepared.project(centered)
        part = MomentAccumulator(projected.shape[1])
        part.update(projected)
        parts.append((part, centered.sum(axis=0), float(np.square(centered).sum())))
    whole = MomentAccumulator(parts[0][0].mean.size)
    for part, _, _ in parts:
        whole.merge(part)
    squares = sum(square for _, _, square in parts)

    def distance(
        rest: MomentAccumulator, offset: Float64[np.ndarray, " d"], square: float
    ) -> float:
        """Give the distance of some rows, from sums over their centered values."""
        trace = (square - rest.count * float(offset @ offset)) / (rest.count - 1)
        covariance = rest.scatter / (rest.count - 1)
        max_rank = min(features.shape[1], rest.count - 1)
        return prepared.distance_of_projection(mean + offset, trace, covariance, max_rank)

    def distance_without(number: int) -> float:
        """Give the distance of all rows but those of a part."""
        part, total, square = parts[number]
        rest = whole.without(part)
        # The centered rows sum to zero, so the rest sums to what the part lacks of it.
        return distance(rest, -total / rest.count, squares - square)

    # One eigenvalue problem hardly gains from threads; several at a time do.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(_problems_at_a_time()) as pool:
        without = list(pool.map(distance_without, range(groups)))
    value = distance(whole, np.zeros_like(mean), squares)
    if len(features) <= features.shape[1]:
        # Fewer samples than dimensions: decomposing their own covariance is more accurate.
        value = frechet_distance(gaussian_statistics(features), reference)
    return ResampledDistance(value, jackknife_error(without))


def _problems_at_a_time() -> int:
    return min(len(os.sched_getaffinity(0)), _MAX_PROBLEMS)


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
