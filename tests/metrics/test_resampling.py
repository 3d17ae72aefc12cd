from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.metrics.frechet import frechet_distance
from rdm_batch.metrics.moments import gaussian_statistics
from rdm_batch.metrics.resampling import (
    jackknife_error,
    mean_error,
    random_groups,
    resampled_frechet,
    share_error,
)
from tests.metrics.examples import cloud
from tests.tolerances import MERGED_REL


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal(50)
    left_out = [(values.sum() - value) / 49 for value in values]
    assert jackknife_error(left_out) == pytest.approx(mean_error(values))


@pytest.mark.parametrize(("count", "dim"), [(200, 12), (40, 64)])
def test_a_resampled_distance_is_the_distance_and_its_jackknife(count: int, dim: int) -> None:
    features = cloud(count, dim, seed=0)
    reference = gaussian_statistics(cloud(300, dim, seed=1))
    distances = []
    for group in random_groups(count, 5, seed=3):
        rest = np.delete(features, group, axis=0)
        distances.append(frechet_distance(gaussian_statistics(rest), reference))
    expected = jackknife_error(distances)
    found = resampled_frechet(features, reference, 5, seed=3)
    whole = frechet_distance(gaussian_statistics(features), reference)
    assert found.value == pytest.approx(whole, rel=MERGED_REL)
    assert found.error == pytest.approx(expected, rel=1e-6)


def test_groups_cover_every_row_once_and_follow_the_seed() -> None:
    groups = random_groups(23, 5, seed=1)
    assert sorted(np.concatenate(groups)) == list(range(23))
    assert {len(group) for group in groups} == {4, 5}
    assert not np.array_equal(groups[0], random_groups(23, 5, seed=2)[0])


def test_error_of_a_share_is_binomial() -> None:
    inside = np.arange(100) < 20
    assert share_error(inside) == pytest.approx(0.04)
    assert share_error(np.ones(5, dtype=bool)) == 0


def test_one_value_has_no_error() -> None:
    assert mean_error(np.ones(1)) is None
