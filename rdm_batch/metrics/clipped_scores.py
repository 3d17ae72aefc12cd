"""Clipped density and coverage (Salvy, Talbot and Thirion 2025, arXiv:2507.01761).

Density and coverage (Naeem et al. 2020) with what outliers can do to them bounded: the radius of
a reference ball by the median radius, what one sample or one ball counts for by 1. Both are
brought to a scale on which a set of which a part is good and the rest far away scores about that
part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.special import betaln, gammaln

from rdm_batch.metrics.manifold import BallQuestion
from rdm_batch.metrics.manifold_scores import ball_counts, squared_radii
from rdm_batch.metrics.neighbors import require_more_than
from rdm_batch.metrics.pairing import mean_influences
from rdm_batch.metrics.pairwise import DEFAULT_BLOCK_SIZE
from rdm_batch.metrics.resampling import Estimate
from rdm_batch.metrics.tasks import HERE, TaskRunner


@dataclass(frozen=True)
class ClippedScores:
    """Hold both scores.

    Args:
        density: Clipped density, with what each sample does to it.
        coverage: Clipped coverage, with what each image of the reference does to it.
        k: Neighborhood size.
    """

    density: Estimate
    coverage: Estimate
    k: int


def clipped_scores(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    k: int = 5,
    block_size: int = DEFAULT_BLOCK_SIZE,
    runner: TaskRunner = HERE,
) -> ClippedScores:
    """Compute clipped density and clipped coverage.

    With ``r_i`` the distance of reference image i to its k-th nearest other one:

    - density: the mean over samples of ``min(1, b / k)``, b the number of reference balls of
      radius ``min(r_i, median r)`` that hold the sample (border inside), divided by the same mean
      over the reference images and the balls of the others, and at most 1;
    - coverage: the mean over reference images of ``min(1, s / k)``, s the number of samples
      nearer than ``r_i``, through ``calibrate``.

    As the authors' program has it but for one thing: where several reference images are exactly as
    near as the k-th, all of them count here, not the k that come first.

    Influences hold the other side fixed. Where the density is cut to 1 its influences are those of
    the uncut quotient.

    Args:
        generated: Generated features.
        reference: Reference features.
        k: Neighborhood size.
        block_size: Rows and columns of one tile; never changes a result.
        runner: Where parts of the passes are computed.

    Raises:
        MetricError: The reference has no more images, or the samples are fewer, than k.
    """
    require_more_than(len(reference), k)
    require_more_than(len(generated), k - 1)
    (radii,) = squared_radii(reference, [k], block_size, runner)
    clipped = np.minimum(radii, _squared_median(radii))
    inside = BallQuestion("column", clipped, "row", strict=False, any_only=False)
    reached = BallQuestion("column", radii, "column", strict=True, any_only=False)
    balls, samples = ball_counts(generated, reference, (inside, reached), block_size, runner)
    (own,) = ball_counts(reference, reference, (inside,), block_size, runner)
    ideal = float(_clipped_shares(own - 1, k).mean())  # each lies in its own ball
    shares = _clipped_shares(balls, k) / ideal
    covered = _clipped_shares(samples, k)
    coverage, slope = calibrate(float(covered.mean()), len(generated), len(reference), k)
    return ClippedScores(
        Estimate(min(1.0, float(shares.mean())), mean_influences(shares)),
        Estimate(coverage, slope * mean_influences(covered)),
        k,
    )


def expected_coverage(n: int, m: int, k: int) -> Float64[np.ndarray, " counts"]:
    """Compute the mean coverage before calibration of 0 to n good samples.

    ``E[min(J, k)] / k``: of s samples that are distributed as the reference, the number J nearer
    to a reference image than the k-th of m - 1 others is beta-binomial with parameters s, k and
    m - k (the mass of the ball is Beta(k, m - k)). The mean is ``1 - sum_{j < k} (1 - j / k)
    P(J = j)``, k terms instead of s. Fewer than k samples count as none, as the authors'
    program has it.

    Args:
        n: Samples.
        m: Reference images, more than k.
        k: Neighborhood size.
    """
    counts = np.arange(k, n + 1, dtype=np.float64)
    missed = np.zeros(len(counts))
    for j in range(k):
        chosen = gammaln(counts + 1) - gammaln(j + 1) - gammaln(counts - j + 1)
        mass = betaln(j + k, counts - j + m - k) - betaln(k, m - k)
        missed += (1 - j / k) * np.exp(chosen + mass)
    return np.concatenate([np.zeros(k), 1 - missed])


def calibrate(coverage: float, n: int, m: int, k: int) -> tuple[float, float]:
    """Bring a coverage to the part of good samples that would be expected to have it.

    The number of sizes from 0 to n whose expected coverage is below, divided by ``n + 1``; the
    slope is that of the expected coverages around it.

    Args:
        coverage: Mean of clipped shares.
        n: Samples.
        m: Reference images.
        k: Neighborhood size.

    Returns:
        The calibrated coverage, and how fast it changes with the coverage.
    """
    expected = expected_coverage(n, m, k)
    below = int(np.searchsorted(expected, coverage))
    # Over a few places, for neighbors may be equal to rounding where a set is large.
    width = max(1, n // 50)
    last = min(max(below + width, k + 1), n)
    first = max(min(below - width, last - 1), k - 1, 0)
    rise = float(expected[last] - expected[first])
    slope = (last - first) / (n + 1) / rise if rise > 0 else 0.0
    return below / (n + 1), slope


def _squared_median(squared: Float64[np.ndarray, " m"]) -> float:
    """Square the median of radii; the very value of a radius where it is one, ties included."""
    lower, upper = (
        float(np.partition(squared, at)[at]) for at in ((len(squared) - 1) // 2, len(squared) // 2)
    )
    return lower if lower == upper else ((lower**0.5 + upper**0.5) / 2) ** 2


def _clipped_shares(counts: Int64[np.ndarray, " c"], k: int) -> Float64[np.ndarray, " c"]:
    shares: Float64[np.ndarray, " c"] = np.minimum(counts / k, 1)
    return shares
