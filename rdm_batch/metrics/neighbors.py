"""Distances of the rows of a set to their nearest others, exact and blockwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.pairwise import (
    DEFAULT_BLOCK_SIZE,
    FeatureRows,
    Tile,
    blocks,
    center_of,
)

TilePair = tuple[slice, slice]


class NearestDistances:
    """Keep, for each row of a set, its smallest squared distances to the rows seen so far.

    Pairs of blocks may come in any order; ``merge_smallest`` merges objects over the same set
    and different pairs.

    Args:
        rows: The set.
        count: Distances kept per row.
    """

    def __init__(self, rows: Float32[np.ndarray, "n d"], count: int) -> None:
        self.smallest: Float64[np.ndarray, "n count"] = np.full((len(rows), count), np.inf)
        self._rows = FeatureRows(rows, center_of(rows))

    def update(self, pairs: Sequence[TilePair]) -> None:
        """Compare the rows of pairs of blocks, a row with itself included.

        Args:
            pairs: Some of ``tile_pairs(...)``; all of them, here or in objects merged later,
                compare every row with every row.
        """
        for first, second in pairs:
            tile = Tile(self._rows.side(first), self._rows.side(second))
            if first != second:
                _search(tile.transposed(), self.smallest[second])
            _search(tile, self.smallest[first])


def merge_smallest(
    first: Float64[np.ndarray, "n count"], second: Float64[np.ndarray, "n count"]
) -> Float64[np.ndarray, "n count"]:
    """Merge what two objects over the same set and different pairs found."""
    return np.sort(np.concatenate([first, second], axis=1), axis=1)[:, : first.shape[1]]


def tile_pairs(count: int, block_size: int = DEFAULT_BLOCK_SIZE) -> list[TilePair]:
    """List the pairs of blocks that cover each unordered pair of ``range(count)`` once."""
    parts = list(blocks(count, block_size))
    return [(first, second) for i, first in enumerate(parts) for second in parts[i:]]


def require_more_than(count: int, k: int) -> None:
    """Refuse sets too small for their neighborhoods.

    Raises:
        MetricError: The set has k rows or fewer.
    """
    if count <= k:
        raise MetricError("neighborhood radius", f"{count} samples", f"more than k = {k}")


def _search(tile: Tile, smallest: Float64[np.ndarray, "n count"]) -> None:
    """Lower the sorted lists of the tile's rows, in place."""
    if np.isinf(smallest[:, -1]).any():
        tile = _seed(tile, smallest)
    i, j = tile.below(smallest[:, -1:])
    if tile.should_refine(len(i)):
        tile = tile.in_double()
        lower, _ = tile.bounds(i, j)
    else:
        lower, _ = tile.bounds(i, j)
    # Nearest first, so that the limits shrink early and most pairs need no computation.
    order = np.argsort(lower, kind="stable")
    for chosen in blocks(len(order), len(tile.lower)):
        part = order[chosen]
        part = part[lower[part] < smallest[i[part], -1]]
        _insert(smallest, i[part], tile.distances(i[part], j[part]))


def _seed(tile: Tile, smallest: Float64[np.ndarray, "n count"]) -> Tile:
    """Fill the lists from the likeliest pairs; return the tile without these pairs."""
    count = min(smallest.shape[1], tile.lower.shape[1])
    _, likely = torch.topk(tile.lower, count, dim=1, largest=False, sorted=False)
    i = np.repeat(np.arange(len(smallest)), count)
    _insert(smallest, i, tile.distances(i, likely.reshape(-1).numpy()))
    return Tile(tile.rows, tile.columns, tile.lower.scatter(1, likely, torch.inf))


def _insert(
    smallest: Float64[np.ndarray, "n count"],
    i: Int64[np.ndarray, " pairs"],
    values: Float64[np.ndarray, " pairs"],
) -> None:
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
