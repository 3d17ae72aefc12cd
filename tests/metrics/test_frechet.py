from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from rdm_batch.errors import MetricError
from rdm_batch.metrics.frechet import FrechetReference, frechet_distance
from rdm_batch.metrics.moments import GaussianStatistics, gaussian_statistics
from tests.metrics.examples import cloud
from tests.tolerances import MERGED_REL, TORCH_FIDELITY_REL


def _torch_fidelity(first: np.ndarray, second: np.ndarray) -> float:
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (first, second)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


@pytest.mark.parametrize(("count", "other"), [(400, 300), (60, 400), (400, 60), (40, 30)])
def test_distance_equals_torch_fidelity(count: int, other: int) -> None:
    first, second = cloud(count, 96, seed=0), cloud(other, 96, seed=1, spread=1.2)
    distance = frechet_distance(gaussian_statistics(first), gaussian_statistics(second))
    assert distance == pytest.approx(_torch_fidelity(first, second), rel=TORCH_FIDELITY_REL)


def test_distance_equals_the_matrix_square_root() -> None:
    first = gaussian_statistics(cloud(500, 24, seed=0))
    second = gaussian_statistics(cloud(500, 24, seed=1, spread=1.3))
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance).real
    difference = first.mean - second.mean
    expected = difference @ difference + np.trace(first.covariance + second.covariance - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=MERGED_REL)


def test_distance_of_known_gaussians() -> None:
    first = GaussianStatistics(np.zeros(2), np.diag([4.0, 1.0]), None)
    second = GaussianStatistics(np.array([3.0, 4.0]), np.diag([1.0, 9.0]), None)
    assert frechet_distance(first, second) == pytest.approx(25 + (2 - 1) ** 2 + (1 - 3) ** 2)


@pytest.mark.parametrize("count", [20, 500])
def test_a_set_is_at_no_distance_from_itself(count: int) -> None:
    statistics = gaussian_statistics(cloud(count, 64, seed=0))
    scale = np.trace(statistics.covariance)
    assert frechet_distance(statistics, statistics) <= MERGED_REL * scale


def test_distance_is_symmetric() -> None:
    first = gaussian_statistics(cloud(50, 64, seed=0))
    second = gaussian_statistics(cloud(500, 64, seed=1))
    assert FrechetReference(first).distance(second) == pytest.approx(
        FrechetReference(second).distance(first), rel=1e-7
    )


def test_constant_features_leave_mean_distance_and_the_other_variance() -> None:
    constant = gaussian_statistics(np.full((50, 8), 2, dtype=np.float32))
    other = gaussian_statistics(cloud(200, 8, seed=0))
    expected = np.sum((other.mean - 2) ** 2) + np.trace(other.covariance)
    assert frechet_distance(constant, other) == pytest.approx(expected, rel=MERGED_REL)
    assert frechet_distance(constant, constant) == 0


def test_different_widths_are_refused() -> None:
    with pytest.raises(MetricError, match="8-dimensional features against 4-dimensional"):
        FrechetReference(gaussian_statistics(cloud(9, 4, seed=0))).distance(
            gaussian_statistics(cloud(9, 8, seed=0))
        )
