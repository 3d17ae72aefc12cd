"""The Vendi score against eigenvalues of the whole kernel matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from rdm_batch.errors import MetricError
from rdm_batch.metrics.vendi import vendi_score
from tests.metrics.examples import cloud
from tests.tolerances import MERGED_REL


@pytest.mark.parametrize(("count", "dim"), [(200, 12), (30, 50), (40, 40), (2, 5)])
def test_the_score_is_that_of_the_kernel_matrix(count: int, dim: int) -> None:
    features = cloud(count, dim, seed=0) - 1
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    values = scipy.linalg.eigvalsh(rows @ rows.T / count)
    values = values[values > 1e-14]
    expected = np.exp(-(values * np.log(values)).sum())
    found = vendi_score(features)
    # Eigenvalues near zero differ by rounding, times their logarithm.
    assert found.value == pytest.approx(expected, rel=1e-8)
    assert found.influences.shape == (count,)
    assert found.influences.mean() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dim", [8, 100])
def test_a_score_counts_different_samples(dim: int) -> None:
    features = np.tile(np.eye(dim, dtype=np.float32)[:5], (6, 1)) * 3
    assert vendi_score(features).value == pytest.approx(5, rel=MERGED_REL)
    assert vendi_score(features).error == pytest.approx(0, abs=1e-9)
    assert vendi_score(np.ones((7, dim), np.float32)).value == pytest.approx(1, rel=MERGED_REL)


def test_both_decompositions_give_one_influence() -> None:
    features = cloud(30, 29, seed=0) - 1
    # Columns of zeros move no cosine, but make the other matrix the smaller one.
    wide = np.concatenate([features, np.zeros((30, 10), np.float32)], axis=1)
    np.testing.assert_allclose(
        vendi_score(wide).influences, vendi_score(features).influences, rtol=1e-6, atol=1e-8
    )


def test_a_row_without_direction_is_named() -> None:
    features = cloud(9, 4, seed=0)
    features[4] = 0
    with pytest.raises(MetricError, match="vendi: 1 of 9 feature rows have no direction, row 4"):
        vendi_score(features)
