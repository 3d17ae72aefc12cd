from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.embeddings import unit_rows
from rdm_batch.retrieval.exact import exact_top_k, recall_at_k, score_slack
from rdm_batch.retrieval.scores import score_pairs

Vectors = Callable[..., np.ndarray]


def naive_top_k(rows: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    cosines = np.array(
        [[q @ r / (np.linalg.norm(q) * np.linalg.norm(r)) for r in rows] for q in queries]
    ).astype(np.float32)
    order = [sorted(range(len(rows)), key=lambda i, c=c: (-c[i], i))[:k] for c in cosines]
    return np.array(order), np.take_along_axis(cosines, np.array(order), axis=1)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("k", [1, 5, 200])
def test_equals_a_full_sort_for_any_block(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch, block: int, k: int
) -> None:
    monkeypatch.setattr("rdm_batch.retrieval.exact._ROW_BLOCK", block)
    rows, queries = vectors(200).astype(np.float16), vectors(6, seed=1)
    ids, scores = exact_top_k(rows, queries, k)
    expected_ids, expected_scores = naive_top_k(rows, queries, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)


def test_equal_rows_are_ordered_by_id(vectors: Vectors) -> None:
    rows = np.concatenate([vectors(20), np.repeat(vectors(1, seed=3), 50, axis=0)])
    ids, scores = exact_top_k(rows, rows[-1:], 30)
    np.testing.assert_array_equal(ids[0], np.arange(20, 50))
    assert len(np.unique(scores)) == 1


def test_a_query_answers_the_same_in_any_batch(vectors: Vectors) -> None:
    rows, queries = vectors(500), vectors(40, seed=1)
    ids, scores = exact_top_k(rows, queries, 10)
    for start, end in [(0, 1), (5, 12), (39, 40)]:
        part_ids, part_scores = exact_top_k(rows, queries[start:end], 10)
        np.testing.assert_array_equal(part_ids, ids[start:end])
        np.testing.assert_array_equal(part_scores, scores[start:end])


@pytest.mark.parametrize("k", [0, -1, 11])
def test_k_outside_the_rows_is_refused(vectors: Vectors, k: int) -> None:
    with pytest.raises(DatabaseError, match="1 <= k <= 10"):
        exact_top_k(vectors(10), vectors(1, seed=1), k)


def test_query_without_direction_is_refused(vectors: Vectors) -> None:
    queries = vectors(3, seed=1)
    queries[1, 0] = np.nan
    with pytest.raises(DatabaseError, match="row 1 holds NaN"):
        exact_top_k(vectors(10), queries, 2)


def test_recall_counts_true_neighbors() -> None:
    exact = np.array([[0.9, 0.8, 0.7, 0.6]], dtype=np.float32)
    found = np.array([[0.9, 0.7, 0.5, 0.4]], dtype=np.float32)
    assert recall_at_k(found, exact) == 0.5
    assert recall_at_k(exact, exact) == 1.0
    with pytest.raises(DatabaseError, match="no queries"):
        recall_at_k(exact[:0], exact[:0])


@pytest.mark.parametrize("dim", [4, 64, 512])
def test_rows_closer_than_rounding_are_still_told_apart(dim: int) -> None:
    """Scores one float32 step apart, whose float32 products come out in any order."""
    random = np.random.default_rng(dim)
    query = random.normal(size=(1, dim))
    query /= np.linalg.norm(query)
    rows = np.repeat(query, 3000, axis=0) + 1e-5 * random.normal(size=(3000, dim))
    rows, query = rows.astype(np.float32), query.astype(np.float32)
    ids, scores = exact_top_k(rows, query, 40)
    expected_ids, expected_scores = naive_top_k(rows, query, 40)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)


def test_the_slack_bounds_the_error_of_float32_products(vectors: Vectors) -> None:
    for dim in (8, 512, 2048):
        rows = vectors(60, dim=dim)
        unit = unit_rows(rows)
        products = unit @ unit.T
        first, second = np.indices(products.shape)
        exact = score_pairs(rows, rows, first.ravel(), second.ravel()).reshape(products.shape)
        assert np.abs(products - exact).max() < score_slack(dim) / 2
