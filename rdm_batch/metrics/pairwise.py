"""Exact comparisons of all pairs of two feature sets, tile by tile in bounded memory.

A tile of squared distances comes from one float32 matrix product, and with it a bound on
its error. Whatever the bound settles is settled; the few pairs too close to call are
computed directly in float64. Every answer is therefore that of the direct float64
distance of the two rows, and does not depend on tile size, order or number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

DEFAULT_BLOCK_SIZE = 2048
# Undecided pairs per tile row beyond which a second product, in float64, decides most of them
# for less than computing each pair directly.
_REFINE_PER_ROW = 16
# float64 values held at once while pairs are computed directly (64 MiB per operand).
_DIRECT_VALUES = 1 << 23


def pair_distances(
    rows: Float32[np.ndarray, "n d"],
    columns: Float32[np.ndarray, "m d"],
    i: Int64[np.ndarray, " pairs"],
    j: Int64[np.ndarray, " pairs"],
) -> Float64[np.ndarray, " pairs"]:
    """Compute squared distances of chosen pairs directly in float64."""
    result = np.empty(len(i))
    step = max(1, _DIRECT_VALUES // rows.shape[1])
    for start in range(0, len(i), step):
        chosen = slice(start, start + step)
        difference = rows[i[chosen]].astype(np.float64)
        difference -= columns[j[chosen]]
        result[chosen] = np.square(difference).sum(axis=1)
    return result


@dataclass(frozen=True)
class Side:
    """Hold one block of rows prepared for matrix products.

    Args:
        features: The rows as given.
        centered: Rows less the common center, float32 or float64.
        norms: Squared norms of ``centered``.
        slack: Bound on what this side adds to the error of a squared distance.
    """

    features: Float32[np.ndarray, "n d"]
    centered: Float[Tensor, "n d"]
    norms: Float[Tensor, " n"]
    slack: Float64[np.ndarray, " n"]

    @classmethod
    def prepare(
        cls,
        features: Float32[np.ndarray, "n d"],
        center: Float64[np.ndarray, " d"],
        dtype: torch.dtype,
    ) -> Side:
        """Center rows and bound the error of products with them.

        A dot product of d terms is off by at most ``d u |x| |y|`` in any order of summation
        (Higham 2002, Eq. 3.5), twice that is at most ``d u (|x|^2 + |y|^2)``; 32 more units
        cover rounding of the centered values, the norms and the final additions.
        """
        exact = torch.from_numpy(features.astype(np.float64) - center)
        norms = exact.square().sum(dim=1)
        unit = torch.finfo(dtype).eps / 2
        slack = (features.shape[1] + 32) * unit * norms.numpy()
        return cls(features, exact.to(dtype), norms.to(dtype), slack)


class Tile:
    """Bound all squared distances of a block of rows to a block of columns.

    Args:
        rows: Block of rows.
        columns: Block of columns, prepared with the same center and dtype.
    """

    def __init__(self, rows: Side, columns: Side) -> None:
        self.rows = rows
        self.columns = columns
        row_part = rows.norms - torch.from_numpy(rows.slack).to(rows.norms.dtype)
        column_part = columns.norms - torch.from_numpy(columns.slack).to(columns.norms.dtype)
        lower = torch.addmm(column_part, rows.centered, columns.centered.T, alpha=-2)
        # No distance is below zero: without the clamp, exact duplicates would stay undecided.
        self.lower: Float[Tensor, "n m"] = lower.add_(row_part[:, None]).clamp_(min=0)

    def bounds(
        self, i: Int64[np.ndarray, " pairs"], j: Int64[np.ndarray, " pairs"]
    ) -> tuple[Float64[np.ndarray, " pairs"], Float64[np.ndarray, " pairs"]]:
        """Return lower and upper bounds of chosen pairs."""
        lower = self.lower[torch.from_numpy(i), torch.from_numpy(j)].double().numpy()
        return lower, lower + 2 * (self.rows.slack[i] + self.columns.slack[j])

    def below(
        self, threshold: Float64[np.ndarray, "..."], mask: Bool[np.ndarray, "..."] | None = None
    ) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        """List the pairs whose lower bound is at most a threshold.

        Args:
            threshold: Broadcast against the tile: one per row (n, 1) or per column (1, m).
            mask: Broadcast likewise; pairs where it is False are not listed.
        """
        dtype = self.lower.dtype
        rounded = torch.from_numpy(threshold).to(dtype)
        limit = torch.nextafter(rounded, torch.tensor(torch.inf, dtype=dtype))
        hit = self.lower <= limit
        if mask is not None:
            hit &= torch.from_numpy(mask)
        i, j = torch.nonzero(hit, as_tuple=True)
        return i.numpy(), j.numpy()

    def refined(self, center: Float64[np.ndarray, " d"]) -> Tile:
        """Compute the same tile from a float64 product."""
        return Tile(
            Side.prepare(self.rows.features, center, torch.float64),
            Side.prepare(self.columns.features, center, torch.float64),
        )

    def should_refine(self, undecided: int) -> bool:
        """Say whether a float64 product is cheaper than computing pairs directly."""
        return self.lower.dtype == torch.float32 and undecided > _REFINE_PER_ROW * len(self.lower)


def product_dtype() -> torch.dtype:
    """Return the dtype of first products: float32 where torch keeps its full precision."""
    return torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64


def blocks(count: int, size: int) -> Iterator[slice]:
    """Cut ``range(count)`` into consecutive slices of at most ``size``."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
