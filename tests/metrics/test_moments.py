from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.errors import MetricError
from rdm_batch.metrics.moments import MomentAccumulator, gaussian_statistics, require_finite
from tests.metrics.examples import cloud
from tests.tolerances import MERGED_REL


@pytest.mark.parametrize("sizes", [(1, 1, 998), (500, 500), (7,) * 142 + (6,)])
def test_merged_parts_equal_the_whole_in_any_order(sizes: tuple[int, ...]) -> None:
    features = cloud(1000, 17, seed=0)
    parts = []
    for part in np.split(features, np.cumsum(sizes)[:-1]):
        accumulator = MomentAccumulator(17)
        accumulator.update(part)
        parts.append(accumulator)
    merged = MomentAccumulator(17)
    for index in np.random.default_rng(1).permutation(len(parts)):
        merged.merge(parts[index])
    expected = features.astype(np.float64)
    np.testing.assert_allclose(merged.finalise().mean, expected.mean(axis=0), rtol=MERGED_REL)
    np.testing.assert_allclose(
        merged.finalise().covariance, np.cov(expected, rowvar=False), rtol=MERGED_REL, atol=1e-12
    )


def test_a_large_mean_costs_no_digits() -> None:
    noise = np.random.default_rng(0).standard_normal((5000, 3))
    accumulator = MomentAccumulator(3)
    for part in np.split(noise + 1e8, 10):
        accumulator.update(part)
    np.testing.assert_allclose(
        accumulator.finalise().covariance, np.cov((noise + 1e8), rowvar=False), rtol=1e-6
    )
    np.testing.assert_allclose(np.diag(accumulator.finalise().covariance), 1, atol=0.1)


def test_an_empty_accumulator_merges_without_effect() -> None:
    accumulator = MomentAccumulator(4)
    accumulator.update(cloud(10, 4, seed=0))
    before = accumulator.finalise()
    accumulator.merge(MomentAccumulator(4))
    np.testing.assert_array_equal(before.covariance, accumulator.finalise().covariance)


def test_one_sample_has_no_covariance() -> None:
    with pytest.raises(MetricError, match="1 samples; needed at least 2"):
        gaussian_statistics(cloud(1, 4, seed=0))


def test_bad_rows_are_counted_and_the_first_is_named() -> None:
    features = cloud(10, 4, seed=0)
    features[3, 1] = np.nan
    features[8, 0] = np.inf
    with pytest.raises(MetricError, match="2 of 10 feature rows are NaN or infinite, row 3 first"):
        require_finite("s3://a", features)
