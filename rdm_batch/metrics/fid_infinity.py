"""Frechet distance at infinitely many samples (Chong and Forsyth 2020, arXiv:1911.07023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.frechet import FrechetReference
from rdm_batch.metrics.moments import GaussianStatistics
from rdm_batch.metrics.resampling import MIN_SAMPLES, Estimate, estimate_frechet
from rdm_batch.metrics.tasks import HERE, TaskRunner, share_out

POINTS = 15
"""Subsets the line is fitted to, as published."""
_SMALLEST = 10
"""The smallest subset is this part of the set: 5,000 of 50,000, as published."""

Subset = tuple[int, Int64[np.ndarray, " _"]]


def fid_infinity(
    features: Float32[np.ndarray, "n d"],
    reference: GaussianStatistics,
    seed: int = 2020,
    runner: TaskRunner = HERE,
) -> Estimate:
    """Extrapolate the Frechet distance to infinitely many samples.

    To first order the distance of N samples is ``F + c / N``. It is taken of subsets of
    ``POINTS`` sizes, and the intercept of the line through them by ``1 / N`` is the score. The
    intercept is a sum of distances with fixed weights, so that the influence of a sample on it is
    the sum of its influences on the distances of the subsets that hold it.

    The reference is held fixed: its own finite size is not extrapolated. Below as many samples
    as dimensions in the smallest subset the law in ``1 / N`` is only roughly met.

    Args:
        features: Generated features.
        reference: Reference Gaussian.
        seed: Seed of the subsets.
        runner: Where distances are computed.

    Raises:
        MetricError: The smallest subset has fewer samples than an error can be told from, the
            widths differ, or features are not finite.
    """
    count = len(features)
    drawn = subsets(count, seed)
    if len(drawn[0]) < MIN_SAMPLES:
        raise MetricError(
            "fid_infinity", f"{count:,} samples", f"{MIN_SAMPLES * _SMALLEST} or more"
        )
    weights = intercept_weights(np.array([len(rows) for rows in drawn]))
    values, influences = np.empty(POINTS), np.zeros((POINTS, count))
    task = partial(_distances, count=reference.count)
    shared = (features, reference.mean, reference.covariance)
    items = share_out(list(enumerate(drawn)), runner.num_tasks)
    for part in runner(task, shared, items):
        for index, found in part:
            values[index] = found.value
            centered = found.influences - found.influences.mean()
            influences[index, drawn[index]] = centered * (count / len(centered))
    return Estimate(float(weights @ values), weights @ influences)


def subsets(count: int, seed: int) -> list[Int64[np.ndarray, " _"]]:
    """Draw the rows of every subset, without replacement, each anew.

    Sizes go in equal steps from a tenth of the set to all of it.
    """
    random = np.random.RandomState(seed)
    sizes = np.linspace(math.ceil(count / _SMALLEST), count, POINTS).astype(np.int64)
    return [random.permutation(count)[:size].astype(np.int64) for size in sizes]


def intercept_weights(sizes: Int64[np.ndarray, " points"]) -> Float64[np.ndarray, " points"]:
    """Give the weights of distances in the intercept of their least-squares line by ``1 / N``."""
    inverse = 1 / sizes
    centered = inverse - inverse.mean()
    weights: Float64[np.ndarray, " points"] = 1 / len(sizes) - inverse.mean() * centered / (
        centered @ centered
    )
    return weights


def _distances(
    features: Float32[np.ndarray, "n d"],
    mean: Float64[np.ndarray, " d"],
    covariance: Float64[np.ndarray, "d d"],
    drawn: Sequence[Subset],
    *,
    count: int | None,
) -> list[tuple[int, Estimate]]:
    prepared = FrechetReference(GaussianStatistics(mean, covariance, count))
    return [(index, estimate_frechet(features[rows], prepared)) for index, rows in drawn]
