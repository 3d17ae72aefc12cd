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

# Rows and columns of a tile. Larger tiles gain nothing and leave less of a symmetric
# product unused.
DEFAULT_BLOCK_SIZE = 1024
# Undecided pairs per tile row beyond which a second product, in float64, decides most of them
# for less than computing each pair directly.
_REFINE_PER_ROW = 16
# float64 values held at once while pairs are computed directly: stays in the cache.
_DIRECT_VALUES = 1 << 17


def pair_distances(
    rows: Float32[np.ndarray, "n d"],
    columns: Float32[np.ndarray, "m d"],
    i: Int64[np.ndarray, " pairs"],
    j: Int64[np.ndarray, " pairs"],
) -> Float64[np.ndarray, " pairs"]:
    """Compute squared distances of chosen pairs directly in float64."""
    result = np.empty(len(i))
    step = max(1, _DIRECT_VALUES // rows.shape[1])
    for chosen in blocks(len(i), step):
        difference = rows[i[chosen]].astype(np.float64)
        difference -= columns[j[chosen]]
        result[chosen] = np.square(difference).sum(axis=1)
    return result


class FeatureRows:
    """Prepare a set of rows for matrix products, block by block.

    A dot product of d terms is off by at most ``d u |x| |y|`` in any order of summation
    (Higham 2002, Eq. 3.5); twice that is at most ``d u (|x|^2 + |y|^2)``. 32 more units cover
    rounding of the centered values, of the norms and in the final additions.

    Args:
        features: The rows.
        center: Subtracted first; the same for rows and columns of a tile. It moves no distance
            and makes the error bound smaller.
    """

    def __init__(
        self, features: Float32[np.ndarray, "n d"], center: Float32[np.ndarray, " d"]
    ) -> None:
        self._features = features
        self._center = center
        self._norms = np.empty(len(features))
        for part in blocks(len(features), max(1, _DIRECT_VALUES // features.shape[1])):
            centered = np.subtract(features[part], center, dtype=np.float32)
            self._norms[part] = np.square(centered, dtype=np.float64).sum(axis=1)

    def __len__(self) -> int:
        return len(self._features)

    def side(self, part: slice, dtype: torch.dtype | None = None) -> Side:
        """Prepare a block.

        Args:
            part: The block.
            dtype: Of the products. None: float32 where torch keeps its full precision.
        """
        if dtype is None:
            full = torch.get_float32_matmul_precision() == "highest"
            dtype = torch.float32 if full else torch.float64
        features = self._features[part]
        if dtype == torch.float32:
            centered = np.subtract(features, self._center, dtype=np.float32)
            norms = self._norms[part]
        else:
            centered = np.subtract(features, self._center, dtype=np.float64)
            norms = np.square(centered).sum(axis=1)
        slack = (features.shape[1] + 32) * (torch.finfo(dtype).eps / 2) * norms
        return Side(self, part, features, torch.from_numpy(centered), norms, slack)


@dataclass(frozen=True)
class Side:
    """Hold one prepared block of rows.

    Args:
        whole: The set the block is part of.
        part: Where in it.
        features: The rows as given.
        centered: The rows less the center, in the dtype of the products.
        norms: Their squared norms.
        slack: What this side adds, at most, to the error of a squared distance.
    """

    whole: FeatureRows
    part: slice
    features: Float32[np.ndarray, "n d"]
    centered: Float[Tensor, "n d"]
    norms: Float64[np.ndarray, " n"]
    slack: Float64[np.ndarray, " n"]

    def in_double(self) -> Side:
        """Prepare the same rows for float64 products."""
        return self.whole.side(self.part, torch.float64)


class Tile:
    """Bound all squared distances of a block of rows to a block of columns.

    Args:
        rows: Block of rows.
        columns: Block of columns, prepared with the same center and dtype.
        lower: Lower bounds, when they are known already.
    """

    def __init__(
        self, rows: Side, columns: Side, lower: Float[Tensor, "n m"] | None = None
    ) -> None:
        self.rows = rows
        self.columns = columns
        if lower is None:
            dtype = rows.centered.dtype
            column_part = torch.from_numpy(columns.norms - columns.slack).to(dtype)
            row_part = torch.from_numpy(rows.norms - rows.slack).to(dtype)
            lower = torch.addmm(column_part, rows.centered, columns.centered.T, alpha=-2)
            # No distance is below zero: unclamped, exact duplicates would stay undecided.
            lower.add_(row_part[:, None]).clamp_(min=0)
        self.lower = lower

    def transposed(self) -> Tile:
        """Return the tile with rows and columns exchanged."""
        return Tile(self.columns, self.rows, self.lower.T.contiguous())

    def bounds(
        self, i: Int64[np.ndarray, " pairs"], j: Int64[np.ndarray, " pairs"]
    ) -> tuple[Float64[np.ndarray, " pairs"], Float64[np.ndarray, " pairs"]]:
        """Return lower and upper bounds of chosen pairs."""
        lower = self.lower.numpy()[i, j].astype(np.float64)
        return lower, lower + 2 * (self.rows.slack[i] + self.columns.slack[j])

    def below(
        self, threshold: Float64[np.ndarray, "_ _"], mask: Bool[np.ndarray, "_ _"] | None = None
    ) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        """List the pairs whose lower bound is at most a threshold.

        Args:
            threshold: One per row (n, 1) or per column (1, m).
            mask: Shaped likewise; pairs where it is False are not listed.
        """
        rounded = torch.from_numpy(threshold).to(self.lower.dtype)
        # Rounding must not lose a pair that lies exactly on the threshold.
        hit = self.lower <= torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
        if mask is not None:
            hit &= torch.from_numpy(mask)
        i, j = np.divmod(np.flatnonzero(hit.numpy()), hit.shape[1])
        return i, j

    def distances(
        self, i: Int64[np.ndarray, " pairs"], j: Int64[np.ndarray, " pairs"]
    ) -> Float64[np.ndarray, " pairs"]:
        """Compute chosen pairs directly."""
        return pair_distances(self.rows.features, self.columns.features, i, j)

    def in_double(self) -> Tile:
        """Compute the same tile from a float64 product."""
        return Tile(self.rows.in_double(), self.columns.in_double())

    def should_refine(self, undecided: int) -> bool:
        """Say whether a float64 product is cheaper than computing pairs directly."""
        return self.lower.dtype == torch.float32 and undecided > _REFINE_PER_ROW * len(self.lower)


def center_of(features: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, " d"]:
    """Return a point in the midst of a set, for error bounds; any point would be correct."""
    center: Float32[np.ndarray, " d"] = features[:DEFAULT_BLOCK_SIZE].mean(axis=0)
    return center


def blocks(count: int, size: int) -> Iterator[slice]:
    """Cut ``range(count)`` into consecutive slices of at most ``size``."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
