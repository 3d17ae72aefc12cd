"""Exact nearest neighbors by blockwise scan: the oracle every index is judged against."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int64

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.embeddings import check_embeddings, score_pairs, unit_rows

_ROW_BLOCK = 8_192
_QUERY_BLOCK = 256
_HALF_ULP = 2.0**-24


def exact_top_k(
    embeddings: Float[np.ndarray, "rows dim"], queries: Float[np.ndarray, "n dim"], k: int
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """Find the k rows of largest cosine similarity to each query, exactly.

    A float32 matrix product per block discards rows that cannot be among the k best; the
    rest are scored in float64. Memory stays bounded at any number of rows, and the
    answer depends neither on the block nor on the other queries.

    Args:
        embeddings: Database rows, any floating type, not necessarily normalized.
        queries: Query rows, not necessarily normalized.
        k: Number of neighbors, in 1..rows.

    Returns:
        Row positions and scores, ordered by (-score, position).

    Raises:
        DatabaseError: k is out of range, or a query has no direction.
    """
    check_k(k, len(embeddings), "exact search")
    check_embeddings(queries, "queries")
    positions = np.empty((len(queries), k), dtype=np.int64)
    scores = np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries), _QUERY_BLOCK):
        part = slice(start, start + _QUERY_BLOCK)
        positions[part], scores[part] = _scan(embeddings, queries[part], k)
    return positions, scores


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


def _scan(
    embeddings: Float[np.ndarray, "rows dim"], queries: Float[np.ndarray, "n dim"], k: int
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    count = len(queries)
    unit_queries, slack = unit_rows(queries), score_slack(queries.shape[1])
    best_ids = np.full((count, k), -1, dtype=np.int64)
    best_scores = np.full((count, k), -np.inf, dtype=np.float32)
    for start in range(0, len(embeddings), _ROW_BLOCK):
        block = embeddings[start : start + _ROW_BLOCK]
        rough = unit_queries @ unit_rows(block).T
        threshold = best_scores[:, -1]
        if len(block) >= k:
            threshold = np.maximum(threshold, np.partition(rough, len(block) - k, axis=1)[:, -k])
        query_positions, row_positions = np.nonzero(rough >= threshold[:, None] - slack)
        scores = score_pairs(queries, block, query_positions, row_positions)
        best_ids, best_scores = _keep_best(
            np.concatenate([np.repeat(np.arange(count), k), query_positions]),
            np.concatenate([best_ids.ravel(), row_positions + start]),
            np.concatenate([best_scores.ravel(), scores]),
            (count, k),
        )
    return best_ids, best_scores


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
