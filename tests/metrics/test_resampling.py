from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.metrics.frechet import frechet_distance
from rdm_batch.metrics.moments import gaussian_statistics
from rdm_batch.metrics.resampling import estimate_frechet, mean_error, share_error
from tests.metrics.examples import cloud
from tests.tolerances import MERGED_REL


@pytest.mark.parametrize(("count", "dim"), [(200, 12), (40, 64)])
def test_an_estimated_distance_is_the_distance(count: int, dim: int) -> None:
    features = cloud(count, dim, seed=0)
    reference = gaussian_statistics(cloud(300, dim, seed=1))
    found = estimate_frechet(features, reference)
    whole = frechet_distance(gaussian_statistics(features), reference)
    assert found.value == pytest.approx(whole, rel=MERGED_REL)


def test_error_of_a_distance_is_that_of_leaving_samples_out_one_by_one() -> None:
    features = cloud(400, 6, seed=0, spread=1.5)
    reference = gaussian_statistics(cloud(300, 6, seed=1))
    left_out = np.array(
        [
            frechet_distance(gaussian_statistics(np.delete(features, row, axis=0)), reference)
            for row in range(len(features))
        ]
    )
    jackknife = np.sqrt(399 / 400 * np.square(left_out - left_out.mean()).sum())
    # Both tend to the same; they differ by terms of relative order dim / count.
    assert estimate_frechet(features, reference).error == pytest.approx(jackknife, rel=0.05)


@pytest.mark.parametrize(("count", "dim", "most"), [(600, 16, 1.4), (60, 96, 2.0)])
def test_error_of_a_distance_is_the_spread_between_sets(count: int, dim: int, most: float) -> None:
    reference = gaussian_statistics(cloud(900, dim, seed=1))
    found = [estimate_frechet(cloud(count, dim, seed, spread=1.5), reference) for seed in range(40)]
    spread = np.std([one.value for one in found], ddof=1)
    # The spread of forty values is itself uncertain by a tenth. With fewer samples than
    # dimensions the error is too large rather than too small.
    assert 0.7 < np.mean([one.error for one in found]) / spread < most


def test_a_single_picture_repeated_has_a_distance_without_error() -> None:
    features = np.full((50, 8), 2, dtype=np.float32)
    found = estimate_frechet(features, gaussian_statistics(cloud(200, 8, seed=0)))
    assert found.value > 0
    assert found.error == 0


def test_error_of_a_share_is_binomial() -> None:
    inside = np.arange(100) < 20
    assert share_error(inside) == pytest.approx(0.04)
    assert share_error(np.ones(5, dtype=bool)) == 0


def test_one_value_has_no_error() -> None:
    assert mean_error(np.ones(1)) is None
