"""Exact nearest neighbors by blockwise scan: the oracle every index is judged against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32, Int64

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.embeddings import check_embeddings, unit_rows
from rdm_batch.retrieval.scores import score_pairs

_ROW_BLOCK = 8_192
_QUERY_BLOCK = 256
_HALF_ULP = 2.0**-24


def exact_top_k(
    embeddings: Float[np.ndarray, "rows dim"],
    queries: Float[np.ndarray, "n dim"],
    k: int,
    removed: Int64[np.ndarray, " gone"] | None = None,
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """Find the k rows of largest cosine similarity to each query, exactly.

    Args:
        embeddings: Database rows, any floating type, not necessarily normalized.
        queries: Query rows, not necessarily normalized.
        k: Number of neighbors, in 1..rows that are left.
        removed: Positions of rows that are not to be found.

    Returns:
        Row positions and scores, ordered by (-score, position).

    Raises:
        DatabaseError: k is out of range, or a query has no direction.
    """
    gone = np.empty(0, np.int64) if removed is None else removed
    check_k(k, len(embeddings) - len(gone), "exact search")
    scan = ExactScan(queries, k)
    for start in range(0, len(embeddings), _ROW_BLOCK):
        scan.add(embeddings[start : start + _ROW_BLOCK], start, gone)
    return scan.ids, scan.scores


Select = Callable[
    [slice, Float32[np.ndarray, "rows dim"], Float32[np.ndarray, " n"], int],
    tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]],
]
"""Name the pairs of queries (a range of them) and rows of a block that may be among the k best:
those within rounding of a threshold, or where none is known yet of the k-th best of the block."""


class ExactScan:
    """Keep the k best rows of many queries, over blocks that come one after the other.

    A float32 matrix product discards rows that cannot be among the k best; the rest are scored in
    float64. Memory stays bounded at any number of rows, and the answer depends on neither the
    blocks, nor their order, nor the other queries.

    Args:
        queries: Query rows, not necessarily normalized.
        k: Number of neighbors, at least 1.
        select: What multiplies and discards. None: numpy, in this process.

    Attributes:
        ids: The best so far; -1 where there are fewer than k.
        scores: Their cosine similarities, best first.

    Raises:
        DatabaseError: A query has no direction.
    """

    def __init__(
        self, queries: Float[np.ndarray, "n dim"], k: int, select: Select | None = None
    ) -> None:
        check_embeddings(queries, "queries")
        self._queries = queries
        self._select = select or NumpySelect(unit_rows(queries))
        self.ids = np.full((len(queries), k), -1, dtype=np.int64)
        self.scores = np.full((len(queries), k), -np.inf, dtype=np.float32)

    def add(
        self,
        block: Float[np.ndarray, "rows dim"],
        first_row: int,
        removed: Int64[np.ndarray, " gone"] | None = None,
    ) -> None:
        """Look through one more block of rows, which must not have been given before.

        Args:
            block: The rows.
            first_row: Id of the first one.
            removed: Ids that are not to be found.
        """
        if removed is not None and len(removed):
            kept = np.isin(np.arange(first_row, first_row + len(block)), removed, invert=True)
            if not kept.all():
                self._add(block[kept], first_row + np.flatnonzero(kept))
                return
        self._add(block, first_row + np.arange(len(block)))

    def _add(self, block: Float[np.ndarray, "rows dim"], ids: Int64[np.ndarray, " rows"]) -> None:
        unit, (count, k) = unit_rows(block), self.ids.shape
        for start in range(0, count, _QUERY_BLOCK):
            part = slice(start, min(start + _QUERY_BLOCK, count))
            queries, rows = self._select(part, unit, self.scores[part, -1], k)
            if not len(queries):
                continue
            scores = score_pairs(self._queries[part], block, queries, rows)
            own = np.repeat(np.arange(part.stop - start), k)
            self.ids[part], self.scores[part] = _keep_best(
                np.concatenate([own, queries]),
                np.concatenate([self.ids[part].ravel(), ids[rows]]),
                np.concatenate([self.scores[part].ravel(), scores]),
                (part.stop - start, k),
            )


class NumpySelect:
    """Multiply with numpy; see ``Select``.

    Args:
        unit_queries: All queries, normalized.
    """

    def __init__(self, unit_queries: Float32[np.ndarray, "n dim"]) -> None:
        self._queries = unit_queries
        self._slack = score_slack(unit_queries.shape[1])

    def __call__(
        self,
        part: slice,
        unit: Float32[np.ndarray, "rows dim"],
        threshold: Float32[np.ndarray, " n"],
        k: int,
    ) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        """Name the pairs that may matter."""
        rough = self._queries[part] @ unit.T
        if len(unit) >= k and np.isneginf(threshold).any():
            threshold = np.maximum(
                threshold, np.partition(rough, len(unit) - k, axis=1)[:, len(unit) - k]
            )
        queries, rows = np.nonzero(rough >= threshold[:, None] - self._slack)
        return queries, rows


def score_slack(dim: int) -> float:
    """Bound how far float32 inner products of unit vectors can misplace a row.

    Whatever the order of the sum, the error is at most dim half-ulps (Higham 2002,
    Accuracy and Stability of Numerical Algorithms, Section 3.1); a few more cover the
    rounding of the vectors and of the final scores. Two rows may both be off.
    """
    return 2 * (dim + 8) * _HALF_ULP


def check_k(k: int, rows: int, where: str) -> None:
    """Refuse a number of neighbors outside 1..rows."""
    if not 1 <= k <= rows:
        raise DatabaseError(
            where, f"k = {k} neighbors of {rows:,} rows were asked for", f"1 <= k <= {rows:,}"
        )


def _keep_best(
    query_positions: Int64[np.ndarray, " pairs"],
    ids: Int64[np.ndarray, " pairs"],
    scores: Float32[np.ndarray, " pairs"],
    shape: tuple[int, int],
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    order = np.lexsort((ids, -scores, query_positions))
    firsts = np.searchsorted(query_positions[order], np.arange(shape[0]))
    best = order[firsts[:, None] + np.arange(shape[1])]
    return ids[best], scores[best]


def recall_at_k(
    found_scores: Float32[np.ndarray, "n k"], exact_scores: Float32[np.ndarray, "n k"]
) -> float:
    """Measure the share of true nearest neighbors a search found, over all queries.

    A found row counts when it scores at least as high as the exact k-th neighbor. Scores
    are compared, not ids: among rows of equal score (duplicated images) any is right.

    Args:
        found_scores: Exactly rescored results of the search under test.
        exact_scores: Scores of :func:`exact_top_k` for the same queries, best first.

    Raises:
        DatabaseError: There are no queries.
    """
    if exact_scores.size == 0:
        raise DatabaseError("recall", "no queries", "at least one query and one neighbor")
    return float((found_scores >= exact_scores[:, -1:]).mean())
