"""Exact cosine scores of stored rows (``score_kernels.py`` says what a score is)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt32

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.score_kernels import (
    FOUND,
    INCOMPLETE,
    OUTSIDE,
    Best,
    Directions,
    Rows,
    kernel,
    stored_rows,
)


def directions_of(queries: Float[np.ndarray, "n dim"], where: str) -> Directions:
    """Look at each query once: its norm says whether it has a direction.

    Args:
        queries: Query rows of at most 32 bits, whose squares float64 holds.
        where: Description used in the message.

    Raises:
        DatabaseError: As :func:`check_embeddings`.
    """
    asked, without = kernel().directions(queries.astype(np.float32, order="C"))
    if without >= 0:
        check_embeddings(queries, where)
    return asked


def score_pairs(
    queries: Float[np.ndarray, "n dim"],
    embeddings: Float[np.ndarray, "rows dim"],
    query_positions: Int64[np.ndarray, " pairs"],
    row_positions: Int64[np.ndarray, " pairs"],
) -> Float32[np.ndarray, " pairs"]:
    """Score (query, row) pairs by cosine similarity in float64, rounded once to float32.

    Args:
        queries: Query rows.
        embeddings: Database rows.
        query_positions: Of the query of each pair.
        row_positions: Of its row.

    Raises:
        IndexError: A position lies outside.
    """
    for positions, rows in ((query_positions, queries), (row_positions, embeddings)):
        if len(positions) and not (positions.min() >= 0 and positions.max() < len(rows)):
            raise IndexError(f"pairs of {len(rows)} rows name others")
    return kernel().pairs(
        queries.astype(np.float64, order="C"),
        stored_rows(embeddings),
        np.ascontiguousarray(query_positions),
        np.ascontiguousarray(row_positions),
    )


def score_candidates(
    queries: Float[np.ndarray, "n dim"],
    embeddings: Float[np.ndarray, "rows dim"],
    candidates: UInt32[np.ndarray, "n count"],
) -> Float32[np.ndarray, "n count"]:
    """Score the same number of rows for each query, as :func:`score_pairs` does.

    Args:
        queries: Query rows.
        embeddings: Database rows.
        candidates: Positions of the rows to score for each query.
    """
    of_query = np.repeat(np.arange(len(candidates)), candidates.shape[1])
    of_row = candidates.astype(np.int64).ravel()
    return score_pairs(queries, embeddings, of_query, of_row).reshape(candidates.shape)


def best_candidates(
    queries: Directions,
    rows: Rows,
    candidates: UInt32[np.ndarray, "n count"],
    rough: Float32[np.ndarray, "n count"],
    k: int,
    where: str,
    first_row: int = 0,
) -> tuple[Best, bool]:
    """Score the candidates of each query, and give the best in order, with their rows.

    Args:
        queries: Of :func:`directions_of`.
        rows: Database rows, of :func:`stored_rows`.
        candidates: Positions of the rows to score for each query, each at most once.
        rough: What the index thinks of them; not finite where there is none.
        k: How many to keep, at most ``count``.
        where: Description used in messages.
        first_row: Id of the first row, so that a message names the database's row.

    Returns:
        The best, and whether every query has k.

    Raises:
        DatabaseError: A candidate is no row, or has no direction.
    """
    found, told = kernel().best(
        queries.values,
        rows,
        np.ascontiguousarray(candidates),
        np.ascontiguousarray(rough),
        k,
    )
    if told in (FOUND, INCOMPLETE):
        return found, told == FOUND
    wrong = f"row {first_row + told} holds NaN or infinite values, or has norm 0"
    raise DatabaseError(
        where,
        "its index names rows that are not there" if told == OUTSIDE else wrong,
        f"one of {len(rows.values):,} rows" if told == OUTSIDE else "finite embeddings",
        "compare the database with its digests (`rdm-batch database check`)",
    )
