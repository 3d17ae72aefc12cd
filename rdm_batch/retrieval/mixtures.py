"""Mixtures of embeddings: points between two of them, and neighbors turned toward their query.

Directions are mixed along the great circle (Shoemake 1985, "Animating rotation with quaternion
curves"), as Ramesh et al. 2022 (arXiv:2204.06125, Section 3.2) mix embeddings of CLIP, and lengths
linearly: heads are trained on rows as stored, whose lengths carry meaning.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.conditioning import Conditioning
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.retrieval.shard import check_dim

PathKind = Literal["spherical", "linear"]

# Below this angle the great circle is its chord to the last digit of float64.
_STRAIGHT = 1e-7


def between(
    start: Float[np.ndarray, "n dim"],
    end: Float[np.ndarray, "n dim"],
    weights: Float64[np.ndarray, " n"],
    path: PathKind = "spherical",
) -> Float32[np.ndarray, "n dim"]:
    """Mix pairs of embeddings; each pair by itself, so never dependent on the batch.

    Args:
        start: Where weight 0 lies, to the bit.
        end: Where weight 1 lies, to the bit.
        weights: 0 to 1, one for each pair.
        path: Along the great circle with lengths linearly, or along the straight line.

    Raises:
        DatabaseError: Two embeddings point in opposite directions (no great circle is the shortest)
            or have no direction, or their mixture has none.
    """
    check_embeddings(start, "start of a mixture")
    check_embeddings(end, "end of a mixture")
    first, last = start.astype(np.float64), end.astype(np.float64)
    t = weights[:, None]
    mixed = (1 - t) * first + t * last if path == "linear" else _on_the_sphere(first, last, t)
    exact = np.where(t == 0, first, np.where(t == 1, last, mixed)).astype(np.float32)
    check_embeddings(exact, "mixture")
    return exact


def _on_the_sphere(
    first: Float64[np.ndarray, "n dim"],
    last: Float64[np.ndarray, "n dim"],
    t: Float64[np.ndarray, "n 1"],
) -> Float64[np.ndarray, "n dim"]:
    lengths = [np.sqrt(np.vecdot(rows, rows))[:, None] for rows in (first, last)]
    u, v = first / lengths[0], last / lengths[1]
    # Of the half chord and its complement: arccos loses half the digits of small angles.
    angle = 2 * np.arctan2(*(np.sqrt(np.vecdot(w, w)) for w in (u - v, u + v)))[:, None]
    opposite = np.flatnonzero(angle > np.pi - _STRAIGHT)
    if opposite.size:
        raise DatabaseError(
            "mixture",
            f"pair {int(opposite[0])} points in opposite directions",
            "two embeddings with one shortest way between them",
            "mix them with path linear, or through a third one",
        )
    sine = np.where(angle < _STRAIGHT, 1, np.sin(angle))
    straight = angle < _STRAIGHT
    a = np.where(straight, 1 - t, np.sin((1 - t) * angle) / sine)
    b = np.where(straight, t, np.sin(t * angle) / sine)
    mixed: Float64[np.ndarray, "n dim"] = ((1 - t) * lengths[0] + t * lengths[1]) * (a * u + b * v)
    return mixed


def mixed_neighbors(
    retriever: Retriever, queries: Float32[np.ndarray, "n dim"], k_nn: int, weight: float
) -> Conditioning:
    """Condition on the k nearest rows, each turned toward its query.

    A token keeps the length of its row and goes the share ``weight`` of the way to the direction
    of the query: 0 is the context of neighbors alone, 1 the query's direction k times.

    Args:
        retriever: The database.
        queries: Text or image embeddings, not normalized, one per sample.
        k_nn: Tokens per context.
        weight: 0 to 1.

    Raises:
        DatabaseError: As ``between``, or the width differs.
    """
    check_embeddings(queries, "queries")
    check_dim(queries.shape[1], retriever.dim, "database")
    found = retriever.search(queries, k_nn)
    rows = found.embeddings.reshape(-1, retriever.dim)
    toward = np.repeat(queries, k_nn, axis=0).astype(np.float64)
    toward *= (_lengths(rows) / _lengths(toward))[:, None]
    mixed = between(rows, toward, np.full(len(rows), float(weight)))
    return Conditioning(mixed.reshape(found.embeddings.shape), found.ids, found.scores)


def _lengths(rows: Float[np.ndarray, "n dim"]) -> Float64[np.ndarray, " n"]:
    wide = rows.astype(np.float64)
    lengths: Float64[np.ndarray, " n"] = np.sqrt(np.vecdot(wide, wide))
    return lengths
