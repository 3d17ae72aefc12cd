"""Distances to the nearest rows of another set, exact and blockwise."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.pairwise import (
    DEFAULT_BLOCK_SIZE,
    Side,
    Tile,
    blocks,
    pair_distances,
    product_dtype,
)


class NearestDistances:
    """Keep, for each row, its smallest squared distances to every column seen so far.

    Columns may come in any order and any blocks; two objects over the same rows and
    different columns merge. The distances are those of ``pair_distances``.

    Args:
        rows: Rows neighbors are sought for.
        count: Distances kept per row.
        block_size: Rows and columns of one tile.
    """

    def __init__(
        self,
        rows: Float32[np.ndarray, "n d"],
        count: int,
        block_size: int = DEFAULT_BLOCK_SIZE,
    ) -> None:
        self.smallest: Float64[np.ndarray, "n count"] = np.full((len(rows), count), np.inf)
        self._rows = rows
        self._block_size = block_size
        self._center = rows[:block_size].mean(axis=0, dtype=np.float64)

    def update(self, columns: Float32[np.ndarray, "m d"]) -> None:
        """Take more columns into account."""
        dtype = product_dtype()
        for row_slice in blocks(len(self._rows), self._block_size):
            rows = Side.prepare(self._rows[row_slice], self._center, dtype)
            for column_slice in blocks(len(columns), self._block_size):
                side = Side.prepare(columns[column_slice], self._center, dtype)
                self._search(Tile(rows, side), self.smallest[row_slice])

    def merge(self, other: NearestDistances) -> None:
        """Take the columns of another object over the same rows into account."""
        both = np.concatenate([self.smallest, other.smallest], axis=1)
        self.smallest = np.sort(both, axis=1)[:, : self.smallest.shape[1]]

    def _search(self, tile: Tile, smallest: Float64[np.ndarray, "n count"]) -> None:
        if np.isinf(smallest[:, -1]).any():
            self._seed(tile, smallest)
        i, j = tile.below(smallest[:, -1:])
        if tile.should_refine(len(i)):
            tile = tile.refined(self._center)
            lower, _ = tile.bounds(i, j)
        else:
            lower, _ = tile.bounds(i, j)
        # Nearest first, so that the limits shrink early and most pairs need no computation.
        order = np.argsort(lower, kind="stable")
        step = max(len(tile.lower), 1)
        for chosen in blocks(len(order), step):
            part = order[chosen]
            part = part[lower[part] < smallest[i[part], -1]]
            _insert(smallest, i[part], self._direct(tile, i[part], j[part]))

    def _seed(self, tile: Tile, smallest: Float64[np.ndarray, "n count"]) -> None:
        """Fill the lists from the likeliest pairs, which then are not looked at again."""
        count = min(smallest.shape[1], tile.lower.shape[1])
        _, likely = torch.topk(tile.lower, count, dim=1, largest=False, sorted=False)
        i = np.repeat(np.arange(len(smallest)), count)
        _insert(smallest, i, self._direct(tile, i, likely.reshape(-1).numpy()))
        tile.lower.scatter_(1, likely, torch.inf)

    @staticmethod
    def _direct(
        tile: Tile, i: Int64[np.ndarray, " pairs"], j: Int64[np.ndarray, " pairs"]
    ) -> Float64[np.ndarray, " pairs"]:
        return pair_distances(tile.rows.features, tile.columns.features, i, j)


def _insert(
    smallest: Float64[np.ndarray, "n count"],
    i: Int64[np.ndarray, " pairs"],
    values: Float64[np.ndarray, " pairs"],
) -> None:
    """Merge values into the sorted lists of their rows, in place."""
    if not len(i):
        return
    count = smallest.shape[1]
    order = np.lexsort((values, i))
    i, values = i[order], values[order]
    rank = np.arange(len(i)) - np.searchsorted(i, i)
    kept = rank < count
    touched, row = np.unique(i[kept], return_inverse=True)
    fresh = np.full((len(touched), count), np.inf)
    fresh[row, rank[kept]] = values[kept]
    both = np.concatenate([smallest[touched], fresh], axis=1)
    smallest[touched] = np.sort(both, axis=1)[:, :count]


def squared_radii(
    features: Float32[np.ndarray, "n d"],
    k: int,
    rows: slice = slice(None),
    block_size: int = DEFAULT_BLOCK_SIZE,
) -> Float64[np.ndarray, " rows"]:
    """Compute the squared distance of rows to their k-th nearest other row of the set.

    As in Kynkaanniemi et al. 2019 (arXiv:1904.06991) and torch-fidelity, the (k + 1)-th
    smallest distance with the row itself counted: duplicates of a row count as neighbors.

    Args:
        features: The whole set.
        k: Neighborhood size.
        rows: The part of the set to compute radii for; parts concatenate.
        block_size: Rows and columns of one tile.

    Raises:
        MetricError: The set has k rows or fewer.
    """
    if len(features) <= k:
        raise MetricError(
            "neighborhood radius",
            f"{len(features)} samples",
            f"more than k = {k}",
        )
    nearest = NearestDistances(features[rows], k + 1, block_size)
    nearest.update(features)
    return nearest.smallest[:, k]
