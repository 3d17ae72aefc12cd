"""Kernel distances over whole sets, against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch_fidelity.metric_kid import kid_features_to_metric

from rdm_batch.metrics.kernel_whole import (
    CMMD_SCALE,
    Kernel,
    cubic_kernel,
    gaussian_kernel,
    whole_kernel_distance,
)
from rdm_batch.metrics.tasks import RunHere
from tests.metrics.examples import cloud
from tests.tolerances import MERGED_REL


def test_the_cubic_distance_of_equal_sets_equals_torch_fidelity() -> None:
    generated, reference = cloud(200, 20, seed=0), cloud(200, 20, seed=1, spread=1.1)
    # One subset of all rows, in whatever order: the same pairs.
    theirs = kid_features_to_metric(
        torch.from_numpy(generated).double(),
        torch.from_numpy(reference).double(),
        kid_subsets=1,
        kid_subset_size=200,
        verbose=False,
    )
    ours = whole_kernel_distance(generated, reference, cubic_kernel).value
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=MERGED_REL)


def _embedded(features: np.ndarray) -> np.ndarray:
    wide = features.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1)[:, None]


def _gram(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.exp(-cdist(_embedded(first), _embedded(second), "sqeuclidean") / (2 * 10**2))


def test_cmmd_equals_the_published_formula() -> None:
    generated, reference = cloud(150, 20, seed=0), cloud(210, 20, seed=1, spread=1.4)
    among, across = _gram(generated, generated), _gram(generated, reference)
    apart = _gram(reference, reference)
    unbiased = (
        (among.sum() - np.trace(among)) / (150 * 149)
        + (apart.sum() - np.trace(apart)) / (210 * 209)
        - 2 * across.mean()
    )
    ours = CMMD_SCALE * whole_kernel_distance(generated, reference, gaussian_kernel).value
    # Kernels within a hundredth of 1 leave their difference five digits fewer.
    assert ours == pytest.approx(1000 * unbiased, rel=1e-8)
    # The published program averages over all pairs, a row with itself included.
    biased = 1000 * (among.mean() + apart.mean() - 2 * across.mean())
    assert biased > ours
    diagonal = 1000 * (1 - among.mean()) / 149 + 1000 * (1 - apart.mean()) / 209
    assert biased - ours == pytest.approx(diagonal, rel=1e-6)


@pytest.mark.parametrize("kernel", [cubic_kernel, gaussian_kernel])
def test_blocks_and_tasks_change_no_value(kernel: Kernel) -> None:
    generated, reference = cloud(130, 8, seed=0), cloud(90, 8, seed=1, spread=1.5)
    whole = whole_kernel_distance(generated, reference, kernel)
    parts = whole_kernel_distance(generated, reference, kernel, 37, RunHere(3))
    # The value is a small difference of means near 1.
    assert parts.value == pytest.approx(whole.value, rel=1e-8, abs=1e-13)
    np.testing.assert_allclose(parts.influences, whole.influences, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kernel", [cubic_kernel, gaussian_kernel])
def test_sets_of_one_distribution_are_at_no_distance_on_average(kernel: Kernel) -> None:
    found = [
        whole_kernel_distance(
            cloud(100, 6, seed=2 * seed), cloud(100, 6, seed=2 * seed + 1), kernel
        )
        for seed in range(40)
    ]
    values = np.array([each.value for each in found])
    assert abs(values.mean()) < 3 * values.std(ddof=1) / np.sqrt(len(values))
    assert (values < 0).any()
