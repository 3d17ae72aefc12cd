"""Kernel distance between feature sets (KID, Binkowski et al. 2018, arXiv:1801.01401)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.tasks import HERE, TaskRunner, share_out

Subset = tuple[int, Int64[np.ndarray, " size"], Int64[np.ndarray, " size"]]


@dataclass(frozen=True)
class KernelDistance:
    """Hold the squared kernel distance over random subsets.

    Args:
        per_subset: Unbiased estimate of each subset, in the order the subsets were drawn.
        subset_size: Rows of either side in a subset.
    """

    per_subset: Float64[np.ndarray, " subsets"]
    subset_size: int

    @property
    def mean(self) -> float:
        """Return the score."""
        return float(self.per_subset.mean())

    @property
    def std(self) -> float:
        """Return the spread between subsets, as it is usually printed beside the score."""
        return float(self.per_subset.std())


def kernel_distance(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    runner: TaskRunner = HERE,
) -> KernelDistance:
    """Compute the kernel distance with the kernel ``(x.y / d + 1)^3``.

    Subsets are drawn as torch-fidelity draws them, so the same rows in the same order give the
    same subsets. Products are taken in float64: in float32 the three sums of a subset lose the
    digits their difference is made of.

    Args:
        generated: Generated features.
        reference: Reference features.
        subsets: Subsets drawn.
        subset_size: Rows of either side in a subset; less when a side has fewer rows.
        seed: Seed of the draws.
        runner: Where subsets are computed.

    Raises:
        MetricError: A subset would hold fewer than two rows of either side, which have no pairs.
    """
    size = min(subset_size, len(generated), len(reference))
    if size < 2:
        raise MetricError(
            "kernel distance",
            f"{len(generated):,} generated and {len(reference):,} reference rows, subsets of "
            f"{subset_size}",
            "at least two of each: the estimate is a mean over pairs of different rows",
        )
    random = np.random.RandomState(seed)
    drawn: list[Subset] = [
        (
            index,
            random.choice(len(generated), size, replace=False),
            random.choice(len(reference), size, replace=False),
        )
        for index in range(subsets)
    ]
    values = np.empty(subsets)
    for part in runner(_distances, (generated, reference), share_out(drawn, runner.num_tasks)):
        for index, value in part:
            values[index] = value
    return KernelDistance(values, size)


def _distances(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    drawn: Sequence[Subset],
) -> list[tuple[int, float]]:
    return [
        (index, _unbiased(generated[rows].astype(np.float64), reference[others].astype(np.float64)))
        for index, rows, others in drawn
    ]


def _unbiased(x: Float64[np.ndarray, "size d"], y: Float64[np.ndarray, "size d"]) -> float:
    """Estimate the squared maximum mean discrepancy (Gretton et al. 2012, Eq. 3)."""
    size = len(x)
    pairs = size * (size - 1)
    (all_x, own_x), (all_y, own_y) = _kernel_sums(x, x), _kernel_sums(y, y)
    return (all_x - own_x + all_y - own_y) / pairs - 2 * _kernel_sums(x, y)[0] / size**2


def _kernel_sums(
    x: Float64[np.ndarray, "size d"], y: Float64[np.ndarray, "size d"]
) -> tuple[float, float]:
    """Sum the kernel over all pairs, and over pairs of equal position."""
    product = x @ y.T
    product /= x.shape[1]
    product += 1
    # A power takes twenty times as long as products; a dot product sums without another pass.
    cubed = float(np.vdot(np.square(product), product))
    return cubed, float((product.diagonal() ** 3).sum())
