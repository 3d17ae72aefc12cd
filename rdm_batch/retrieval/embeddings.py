"""Checks and exact cosine scores of embedding rows.

ScaNN ends the process on a non-finite row and answers with row 0 for a non-finite query,
so every array passes :func:`check_embeddings` before it comes near an index.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from rdm_batch.errors import DatabaseError

# Values copied to float64 at a time: 16 MB.
_BLOCK_VALUES = 1 << 21
# Candidates scored at a time, 32 rows of 512: their float64 copy stays in the cache of a core,
# where the next ones find it after a search has driven everything else out.
_CANDIDATE_BLOCK_VALUES = 1 << 14
_FEW_VALUES = 1 << 17


def check_embeddings(
    embeddings: Float[np.ndarray, "rows dim"], where: str, first_row: int = 0
) -> None:
    """Refuse rows that have no direction: NaN, infinite or all zero.

    Args:
        embeddings: Rows as they will be stored, that is, after any cast to float16.
        where: URI or description used in the message.
        first_row: Row id of the first row, so that the message names the database's row.

    Raises:
        DatabaseError: A row is not finite or has norm zero; the first one is named.
    """
    finite = np.isfinite(embeddings).all(axis=1)
    _refuse(finite, where, first_row, "holds NaN or infinite values", "finite embeddings")
    nonzero = (embeddings != 0).any(axis=1)
    _refuse(nonzero, where, first_row, "has norm 0", "a non-zero embedding, which has a direction")


def _refuse(good: np.ndarray, where: str, first_row: int, found: str, needed: str) -> None:
    if good.all():
        return
    bad = np.flatnonzero(~good)
    raise DatabaseError(
        where,
        f"row {first_row + int(bad[0])} {found} ({bad.size} of {good.size} rows do)",
        needed,
        "recompute or remove these rows",
    )


def _blocks(rows: int, dim: int) -> list[slice]:
    step = max(1, _BLOCK_VALUES // max(1, dim))
    return [slice(start, start + step) for start in range(0, rows, step)]


def row_norms(embeddings: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, " rows"]:
    """Compute Euclidean norms in float64, each from its own row alone."""
    norms = np.empty(len(embeddings))
    for part in _blocks(*embeddings.shape):
        rows = embeddings[part].astype(np.float64)
        norms[part] = np.sqrt(np.vecdot(rows, rows))
    return norms


def unit_rows(embeddings: Float[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
    """Divide each row by its norm, in blocks so that float64 copies stay small."""
    unit = np.empty(embeddings.shape, dtype=np.float32)
    for part in _blocks(*embeddings.shape):
        block = embeddings[part].astype(np.float64)
        unit[part] = block / np.sqrt(np.vecdot(block, block))[:, None]
    return unit


def as_float32(rows: Float[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Give the same values in float32; numpy makes few of float16 twice as fast by way of float64.

    Args:
        rows: In float16 or float32.
    """
    if rows.dtype == np.float16 and rows.size <= _FEW_VALUES:
        rows = rows.astype(np.float64)
    converted: Float32[np.ndarray, "..."] = rows.astype(np.float32)
    return converted


class Directions(NamedTuple):
    """Queries that have a direction, with what scoring and searching need of them.

    Attributes:
        values: As asked.
        lengths: Their Euclidean norms, finite and not zero.
        unit: Divided by these, as :func:`unit_rows` does.
    """

    values: Float64[np.ndarray, "n dim"]
    lengths: Float64[np.ndarray, " n"]
    unit: Float32[np.ndarray, "n dim"]


def directions_of(queries: Float[np.ndarray, "n dim"], where: str) -> Directions:
    """Look at each query once: its norm says whether it has a direction.

    Args:
        queries: Query rows of at most 32 bits, whose squares float64 holds.
        where: Description used in the message.

    Raises:
        DatabaseError: As :func:`check_embeddings`.
    """
    values = queries.astype(np.float64)
    lengths = np.sqrt(np.vecdot(values, values))
    if len(lengths) and not (lengths.min() > 0 and lengths.max() < np.inf):
        check_embeddings(queries, where)
    return Directions(values, lengths, (values / lengths[:, None]).astype(np.float32))


def score_pairs(
    queries: Float[np.ndarray, "n dim"],
    embeddings: Float[np.ndarray, "rows dim"],
    query_positions: Int64[np.ndarray, " pairs"],
    row_positions: Int64[np.ndarray, " pairs"],
) -> Float32[np.ndarray, " pairs"]:
    """Score (query, row) pairs by cosine similarity in float64, rounded once to float32.

    Every score is one dot product of its own two rows, so it does not depend on which
    other pairs are scored with it; a matrix product would not promise that.
    """
    scores = np.empty(len(query_positions), dtype=np.float32)
    queries64 = queries.astype(np.float64)
    query_norms = np.sqrt(np.vecdot(queries64, queries64))
    for part in _blocks(len(scores), queries.shape[1]):
        rows = embeddings[row_positions[part]].astype(np.float64)
        dots = np.vecdot(queries64[query_positions[part]], rows)
        norms = query_norms[query_positions[part]] * np.sqrt(np.vecdot(rows, rows))
        scores[part] = dots / norms
    return scores


def score_candidates(
    queries: Directions,
    embeddings: Float[np.ndarray, "rows dim"],
    norms: Float64[np.ndarray, " rows"] | None,
    candidates: Int64[np.ndarray, "n count"],
) -> Float32[np.ndarray, "n count"]:
    """Score the same number of rows for each query, to the bit as :func:`score_pairs` does.

    Args:
        queries: Of :func:`directions_of`.
        embeddings: Database rows.
        norms: Their norms, of :func:`row_norms`. None computes those of the candidates.
        candidates: Positions of the rows to score for each query.
    """
    scores = np.empty(candidates.shape, dtype=np.float32)
    rows_at_once = max(1, _CANDIDATE_BLOCK_VALUES // embeddings.shape[1])
    queries_at_once = max(1, rows_at_once // max(1, candidates.shape[1]))
    # Mapped rows without a direction are told of by the caller.
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, len(candidates), queries_at_once):
            asked = slice(start, start + queries_at_once)
            values, lengths = queries.values[asked, None], queries.lengths[asked, None]
            for first in range(0, candidates.shape[1], rows_at_once):
                part = asked, slice(first, first + rows_at_once)
                rows = embeddings.take(candidates[part], axis=0).astype(np.float64)
                norm = np.sqrt(np.vecdot(rows, rows)) if norms is None else norms[candidates[part]]
                scores[part] = np.vecdot(values, rows) / (lengths * norm)
    return scores
