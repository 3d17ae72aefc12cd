"""What computes exact cosine scores of rows, in one order of summation on every CPU.

Element i of a row, times that of the query, is added to sum i mod 64, one after another, in
float64; then the second half of the sums is added to the first, until one is left. So are the
squares. The quotient is rounded once, to float32. A score therefore has the same bits wherever it
is computed, and in whatever company: by the kernel (``score_kernel.cpp``), or by numpy where this
machine has no compiler, which takes longer past a million rows
(docs/decisions/search-is-exactly-rescored.md).
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from rdm_batch.errors import ClusterError
from rdm_batch.files import user_cache
from rdm_batch.native import compiled_library, kind_of_cpu, private_folder

LANES: Final = 64
FOUND: Final = -1
"""What a kernel tells when every query has k candidates, each a row with a direction."""
OUTSIDE: Final = -2
"""What it tells of a candidate that is no row."""
INCOMPLETE: Final = -3
"""What it tells when a query has fewer. A position tells that this row has no direction."""
_SOURCE: Final = Path(__file__).with_name("score_kernel.cpp")
# A product that is rounded before it is added gives the same bits on CPUs that could merge both.
_OPTIONS: Final = ("-ffp-contract=off",)
# Values that numpy works on at a time, 64 rows of 512: they stay in the cache of a core.
_BLOCK_VALUES = 1 << 15


class Directions(NamedTuple):
    """Queries that have a direction.

    Attributes:
        values: As asked.
        unit: Divided by their Euclidean norms.
    """

    values: Float32[np.ndarray, "n dim"]
    unit: Float32[np.ndarray, "n dim"]


class Rows(NamedTuple):
    """Stored rows, looked up once for many calls.

    Attributes:
        values: One after another in memory.
        at: Their address.
    """

    values: Float[np.ndarray, "rows dim"]
    at: int


class Best(NamedTuple):
    """The best candidates of each query, ordered by (-score, position).

    Attributes:
        positions: Of rows.
        scores: Cosine similarities; minus infinity where a query has fewer candidates.
        embeddings: The rows.
    """

    positions: Int64[np.ndarray, "n k"]
    scores: Float32[np.ndarray, "n k"]
    embeddings: Float32[np.ndarray, "n k dim"]


class NativeKernel:
    """Compute scores by ``score_kernel.cpp``.

    Args:
        library: It, compiled.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        at, number = ctypes.c_void_p, ctypes.c_int64
        rows = (at, number, number, number)
        self._directions = library.directions
        self._directions.argtypes = (at, number, number, at)
        self._directions.restype = number
        self._pairs = library.pair_scores
        self._pairs.argtypes = (*rows, at, number, at, at, number, at)
        self._pairs.restype = None
        self._best = library.best_rows
        self._best.argtypes = (*rows, at, number, at, at, number, number, at, at, at)
        self._best.restype = number

    def directions(self, values: np.ndarray) -> tuple[Directions, int]:
        """Divide queries by their lengths; tell the first one without direction, else -1."""
        unit = np.empty_like(values)
        told: int = self._directions(_at(values), *values.shape, _at(unit))
        return Directions(values, unit), told

    def pairs(
        self, queries: np.ndarray, rows: Rows, of_query: np.ndarray, of_row: np.ndarray
    ) -> Float32[np.ndarray, " pairs"]:
        """Score pairs of queries, in float64, and rows."""
        scores = np.empty(len(of_row), np.float32)
        self._pairs(
            *(rows.at, rows.values.itemsize, *rows.values.shape),
            *(_at(queries), len(queries), _at(of_query), _at(of_row), len(of_row), _at(scores)),
        )
        return scores

    def best(
        self, queries: np.ndarray, rows: Rows, candidates: np.ndarray, rough: np.ndarray, k: int
    ) -> tuple[Best, int]:
        """Give the best of the candidates of queries in float32, and what there is to tell."""
        (count, each), (row_count, dim) = candidates.shape, rows.values.shape
        positions = np.empty((count, k), np.int64)
        scores = np.empty((count, k), np.float32)
        embeddings = np.empty((count, k, dim), np.float32)
        told: int = self._best(
            *(rows.at, rows.values.itemsize, row_count, dim, _at(queries), count),
            *(_at(candidates), _at(rough), each, k, _at(positions), _at(scores), _at(embeddings)),
        )
        return Best(positions, scores, embeddings), told


class NumpyKernel:
    """Compute scores by numpy, to the same bits.

    Args:
        reason: Why nothing else does.
    """

    def __init__(self, reason: Exception | None = None) -> None:
        self.reason = reason

    def directions(self, values: np.ndarray) -> tuple[Directions, int]:
        """Divide queries by their lengths; tell the first one without direction, else -1."""
        wide = values.astype(np.float64)
        lengths = np.sqrt(_sum(wide * wide))
        with np.errstate(divide="ignore", invalid="ignore"):
            unit = (wide / lengths[:, None]).astype(np.float32)
        without = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
        return Directions(values, unit), int(without[0]) if len(without) else -1

    def pairs(
        self, queries: np.ndarray, rows: Rows, of_query: np.ndarray, of_row: np.ndarray
    ) -> Float32[np.ndarray, " pairs"]:
        """Score pairs of queries, in float64, and rows."""
        scores = np.empty(len(of_row), np.float32)
        asked = np.sqrt(_sum(queries * queries))
        step = max(1, _BLOCK_VALUES // max(1, rows.values.shape[1]))
        with np.errstate(divide="ignore", invalid="ignore"):
            for start in range(0, len(of_row), step):
                part = slice(start, start + step)
                values = rows.values.take(of_row[part], axis=0).astype(np.float64)
                dots = _sum(queries[of_query[part]] * values)
                lengths = asked[of_query[part]] * np.sqrt(_sum(values * values))
                scores[part] = dots / lengths
        return scores

    def best(
        self, queries: np.ndarray, rows: Rows, candidates: np.ndarray, rough: np.ndarray, k: int
    ) -> tuple[Best, int]:
        """Give the best of the candidates of queries in float32, and what there is to tell."""
        count, dim = queries.shape
        nothing = Best(
            np.zeros((count, k), np.int64),
            np.zeros((count, k), np.float32),
            np.zeros((count, k, dim), np.float32),
        )
        if candidates.size and candidates.max() >= len(rows.values):
            return nothing, OUTSIDE
        of_query = np.repeat(np.arange(count), candidates.shape[1])
        positions = candidates.astype(np.int64)
        wide = queries.astype(np.float64)
        scores = self.pairs(wide, rows, of_query, positions.ravel()).reshape(positions.shape)
        valid = np.isfinite(rough)
        without = np.flatnonzero(valid & np.isnan(scores))
        if len(without):
            return nothing, int(positions.flat[without[0]])
        scores = np.where(valid, scores, np.float32(-np.inf))
        positions = np.where(valid, positions, 0)
        order = np.lexsort((positions, -scores), axis=-1)[:, :k]
        positions, scores = (np.take_along_axis(each, order, 1) for each in (positions, scores))
        embeddings = rows.values.take(positions, axis=0).astype(np.float32)
        best = Best(positions, scores, embeddings)
        return best, INCOMPLETE if (scores == -np.inf).any() else FOUND


Kernel = NativeKernel | NumpyKernel


@cache
def kernel() -> Kernel:
    """Give what computes scores on this machine: compiled code, or numpy where nothing compiles."""
    try:
        kind = kind_of_cpu()
        folder = user_cache().absolute() / "compiled" / kind
        private_folder(folder)
        return NativeKernel(compiled_library(_SOURCE, folder, kind, _OPTIONS))
    except (ClusterError, OSError, RuntimeError) as error:
        # No compiler, or nowhere to keep what it makes.
        return NumpyKernel(error)


@cache
def tell_of_numpy() -> None:
    """Say once what a search in a large shard loses on this machine, if it does."""
    found = kernel()
    if isinstance(found, NumpyKernel):
        print(
            "note: neighbors are scored by numpy, to the same bits but more slowly: "
            f"{found.reason}",
            file=sys.stderr,
            flush=True,
        )


def stored_rows(embeddings: Float[np.ndarray, "rows dim"]) -> Rows:
    """Look up rows for a kernel, which needs them one after another in memory."""
    values = np.ascontiguousarray(embeddings)
    return Rows(values, _at(values))


def _sum(products: Float64[np.ndarray, "n dim"]) -> Float64[np.ndarray, " n"]:
    """Sum each row in the order that is told above."""
    count, dim = products.shape
    whole = -(-dim // LANES) * LANES
    if whole > dim:
        products = np.pad(products, ((0, 0), (0, whole - dim)))
    # Along an axis that is not the last one, numpy adds one after another.
    sums: Float64[np.ndarray, "n lanes"] = np.add.reduce(
        products.reshape(count, -1, LANES), axis=1, initial=0.0
    )
    while (half := sums.shape[1] // 2) > 0:
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def _at(array: np.ndarray) -> int:
    """Give the address of an array, in a third of the time that numpy takes to, where it can."""
    if array.size and array.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    return int(array.ctypes.data)
