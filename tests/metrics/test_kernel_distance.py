from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from rdm_batch.errors import MetricError
from rdm_batch.metrics.kernel_distance import kernel_distance
from rdm_batch.metrics.tasks import RunHere
from tests.metrics.examples import cloud
from tests.tolerances import MERGED_REL


@pytest.mark.parametrize(("count", "other", "size"), [(300, 200, 100), (150, 400, 150)])
def test_values_equal_torch_fidelity(count: int, other: int, size: int) -> None:
    generated, reference = cloud(count, 40, seed=0), cloud(other, 40, seed=1, spread=1.1)
    # In double on both sides: in float32 torch-fidelity loses digits of its own.
    theirs = kid_features_to_metric(
        torch.from_numpy(generated).double(),
        torch.from_numpy(reference).double(),
        kid_subsets=20,
        kid_subset_size=size,
        verbose=False,
    )
    ours = kernel_distance(generated, reference, subsets=20, subset_size=size)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=MERGED_REL)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=MERGED_REL)


def test_tasks_merge_to_the_whole() -> None:
    generated, reference = cloud(300, 40, seed=0), cloud(200, 40, seed=1)
    whole = kernel_distance(generated, reference, 15, 50)
    parts = kernel_distance(generated, reference, 15, 50, runner=RunHere(4))
    np.testing.assert_array_equal(parts.per_subset, whole.per_subset)


def test_small_sets_make_small_subsets() -> None:
    assert kernel_distance(cloud(60, 8, seed=0), cloud(45, 8, seed=1), 3).subset_size == 45


@pytest.mark.parametrize(("generated", "reference", "size"), [(9, 1, 5), (1, 9, 5), (9, 9, 1)])
def test_one_row_has_no_pairs(generated: int, reference: int, size: int) -> None:
    rows = cloud(generated, 8, seed=0), cloud(reference, 8, seed=1)
    with pytest.raises(MetricError, match=f"{generated} generated and {reference} reference rows"):
        kernel_distance(*rows, 3, size)


def test_two_halves_of_one_set_are_at_no_distance_on_average() -> None:
    features = cloud(2000, 16, seed=0)
    same = kernel_distance(features[:1000], features[1000:], 30, 200)
    other = kernel_distance(features[:1000], cloud(1000, 16, seed=1, spread=1.5), 30, 200)
    assert abs(same.mean) < 0.1 * other.mean


def test_constant_features_are_at_no_distance() -> None:
    constant = np.full((30, 8), 2, dtype=np.float32)
    assert kernel_distance(constant, constant, 3).mean == pytest.approx(0, abs=1e-9)
