from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.merge import Neighbors, merge_top_k

Vectors = Callable[..., np.ndarray]


def search(rows: np.ndarray, queries: np.ndarray, k: int, first: int) -> Neighbors:
    ids, scores = exact_top_k(rows, queries, k)
    return Neighbors(ids + first, scores, rows[ids].astype(np.float32))


def test_merge_equals_search_of_all_rows_in_any_order(vectors: Vectors) -> None:
    rows, queries = vectors(90), vectors(7, seed=1)
    rows[60:] = rows[:30]
    whole = search(rows, queries, 12, 0)
    parts = [search(rows[a:b], queries, 12, a) for a, b in [(0, 25), (25, 70), (70, 90)]]
    for order in itertools.permutations(parts):
        merged = merge_top_k(order, 12)
        np.testing.assert_array_equal(merged.ids, whole.ids)
        np.testing.assert_array_equal(merged.scores, whole.scores)
        np.testing.assert_array_equal(merged.embeddings, whole.embeddings)


def test_too_few_candidates_are_refused(vectors: Vectors) -> None:
    part = search(vectors(4), vectors(2, seed=1), 4, 0)
    with pytest.raises(DatabaseError, match="4 candidates from 1 shards for k = 5"):
        merge_top_k([part], 5)


def test_a_shard_given_twice_is_refused(vectors: Vectors) -> None:
    part = search(vectors(4), vectors(2, seed=1), 4, 0)
    with pytest.raises(DatabaseError, match="query 0 received one database row twice"):
        merge_top_k([part, part], 3)


@pytest.mark.parametrize(("row_id", "score"), [(-1, 0.5), (0, np.nan)])
def test_missing_neighbors_are_never_passed_on(row_id: int, score: float) -> None:
    with pytest.raises(DatabaseError, match="query 1"):
        Neighbors(
            ids=np.array([[3], [row_id]]),
            scores=np.array([[0.9], [score]], dtype=np.float32),
            embeddings=np.zeros((2, 1, 4), dtype=np.float32),
        )
