from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.embeddings import (
    check_embeddings,
    directions_of,
    row_norms,
    score_candidates,
    score_pairs,
    unit_rows,
)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_row_is_refused_by_name(value: float) -> None:
    rows = np.ones((10, 4), dtype=np.float16)
    rows[7, 2] = rows[9, 0] = value
    with pytest.raises(DatabaseError, match=r"db: row 107 holds NaN .*2 of 10 rows"):
        check_embeddings(rows, "db", first_row=100)


def test_zero_row_is_refused_by_name() -> None:
    rows = np.ones((5, 4), dtype=np.float32)
    rows[3] = 0
    with pytest.raises(DatabaseError, match="row 3 has norm 0"):
        check_embeddings(rows, "db")


def test_norms_of_huge_and_tiny_rows_do_not_overflow() -> None:
    rows = np.array([[3e38, 3e38], [1e-40, 0]], dtype=np.float32)
    assert np.isfinite(row_norms(rows)).all()
    np.testing.assert_allclose(np.linalg.norm(unit_rows(rows).astype(np.float64), axis=1), 1, 1e-6)


@pytest.mark.parametrize("dim", [1, 3, 64, 513])
def test_a_pair_scores_the_same_in_any_company(dim: int) -> None:
    random = np.random.default_rng(dim)
    queries = random.normal(size=(9, dim)).astype(np.float32)
    rows = random.normal(size=(300, dim)).astype(np.float16)
    of_query = random.integers(0, 9, 1000)
    of_row = random.integers(0, 300, 1000)
    together = score_pairs(queries, rows, of_query, of_row)
    alone = [
        score_pairs(queries[q : q + 1], rows[r : r + 1], np.array([0]), np.array([0]))[0]
        for q, r in zip(of_query, of_row, strict=True)
    ]
    np.testing.assert_array_equal(together, np.array(alone))
    candidates = random.integers(0, 300, (9, 33))
    pairs = score_pairs(queries, rows, np.repeat(np.arange(9), 33), candidates.ravel())
    asked = directions_of(queries, "queries")
    for norms in (row_norms(rows), None):
        scored = score_candidates(asked, rows, norms, candidates)
        np.testing.assert_array_equal(scored.ravel(), pairs)
    np.testing.assert_array_equal(asked.unit, unit_rows(queries))


def test_scores_are_cosines() -> None:
    random = np.random.default_rng(0)
    queries, rows = random.normal(size=(5, 32)), random.normal(size=(5, 32))
    pairs = np.arange(5)
    expected = [
        float(q @ r / np.linalg.norm(q) / np.linalg.norm(r))
        for q, r in zip(queries, rows, strict=True)
    ]
    np.testing.assert_allclose(score_pairs(queries, rows, pairs, pairs), expected, rtol=2e-7)
