from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.embeddings import (
    check_embeddings,
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
    np.testing.assert_allclose(np.linalg.norm(unit_rows(rows).astype(np.float64), axis=1), 1, 1e-6)
