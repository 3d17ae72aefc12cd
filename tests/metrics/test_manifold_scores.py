from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from rdm_batch.errors import MetricError
from rdm_batch.metrics.manifold_scores import (
    DensityCoverage,
    PrecisionRecall,
    manifold_scores,
)
from rdm_batch.metrics.tasks import RunHere
from tests.metrics.examples import cloud


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = first.astype(np.float64), second.astype(np.float64)
    return np.square(first[:, None] - second[None]).sum(axis=2)


def _plain(generated: np.ndarray, reference: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Compute the definition with every distance in memory."""
    first_radii = np.sort(_distances(generated, generated), axis=1)[:, k]
    second_radii = np.sort(_distances(reference, reference), axis=1)[:, k]
    between = _distances(generated, reference)
    return PrecisionRecall(
        (between <= second_radii).any(axis=1), (between <= first_radii[:, None]).any(axis=0)
    )


def _plain_density(generated: np.ndarray, reference: np.ndarray, k: int = 5) -> DensityCoverage:
    """Compute the definition with every distance in memory."""
    inside = _distances(generated, reference) < np.sort(_distances(reference, reference))[:, k]
    return DensityCoverage(inside.sum(axis=1), inside.any(axis=0), k)


def precision_recall(generated: np.ndarray, reference: np.ndarray, **settings) -> PrecisionRecall:
    result = manifold_scores(generated, reference, **settings).precision_recall
    assert result is not None
    return result


def density_coverage(generated: np.ndarray, reference: np.ndarray, **settings) -> DensityCoverage:
    settings = {"precision_k": None, "density_k": 5} | settings
    result = manifold_scores(generated, reference, **settings).density_coverage
    assert result is not None
    return result


def _assert_same(actual: PrecisionRecall, expected: PrecisionRecall) -> None:
    np.testing.assert_array_equal(actual.generated_inside, expected.generated_inside)
    np.testing.assert_array_equal(actual.reference_inside, expected.reference_inside)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_values_equal_torch_fidelity(k: int) -> None:
    generated, reference = cloud(700, 48, seed=0), cloud(500, 48, seed=1, spread=1.1)
    theirs = prc_features_to_metric(
        torch.from_numpy(generated), torch.from_numpy(reference), prc_neighborhood=k, verbose=False
    )
    ours = precision_recall(generated, reference, precision_k=k)
    assert 0.3 < ours.precision < 1
    assert 0.3 < ours.recall < 1
    assert ours.precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert ours.recall == pytest.approx(theirs["recall"], abs=1e-6)


@pytest.mark.parametrize("block_size", [7, 13, 64, 1000])
def test_memberships_do_not_depend_on_the_block_size(block_size: int) -> None:
    generated, reference = cloud(90, 10, seed=0), cloud(70, 10, seed=1)
    _assert_same(
        precision_recall(generated, reference, block_size=block_size),
        _plain(generated, reference),
    )


def test_ties_count_as_inside_for_any_block_size() -> None:
    # Points of a coarse grid: most distances occur many times, exactly at some radius.
    rng = np.random.default_rng(0)
    generated = rng.integers(0, 4, (150, 3)).astype(np.float32) + 1000
    reference = rng.integers(0, 4, (120, 3)).astype(np.float32) * 1.5 + 1000
    for block_size in (11, 64, 500):
        _assert_same(
            precision_recall(generated, reference, block_size=block_size),
            _plain(generated, reference),
        )


def test_near_ties_far_from_the_origin_are_decided_exactly() -> None:
    # Differences are far below what a float32 product of these rows resolves.
    rng = np.random.default_rng(0)
    spread = np.array([[900.0], [-900.0]])[rng.integers(0, 2, 160)]
    features = (spread + 1e-3 * rng.standard_normal((160, 6))).astype(np.float32)
    generated, reference = features[:80], features[80:]
    _assert_same(precision_recall(generated, reference), _plain(generated, reference))


@pytest.mark.parametrize("num_tasks", [2, 5, 40])
def test_tasks_merge_to_the_whole(num_tasks: int) -> None:
    generated, reference = cloud(200, 10, seed=0), cloud(150, 10, seed=1)
    whole = manifold_scores(generated, reference, 3, 5, block_size=48)
    parts = manifold_scores(generated, reference, 3, 5, 48, RunHere(num_tasks))
    assert whole.precision_recall is not None
    assert parts.precision_recall is not None
    assert whole.density_coverage is not None
    assert parts.density_coverage is not None
    _assert_same(whole.precision_recall, _plain(generated, reference))
    _assert_same(parts.precision_recall, whole.precision_recall)
    np.testing.assert_array_equal(parts.density_coverage.balls, whole.density_coverage.balls)
    np.testing.assert_array_equal(parts.density_coverage.covered, whole.density_coverage.covered)


@pytest.mark.parametrize("block_size", [7, 64, 1000])
def test_density_and_coverage_equal_the_definition(block_size: int) -> None:
    generated, reference = cloud(90, 10, seed=0), cloud(70, 10, seed=1)
    result = density_coverage(generated, reference, block_size=block_size)
    expected = _plain_density(generated, reference)
    np.testing.assert_array_equal(result.balls, expected.balls)
    np.testing.assert_array_equal(result.covered, expected.covered)
    assert 0 < result.coverage < 1
    assert result.density == pytest.approx(expected.balls.mean() / 5)


def test_density_and_coverage_leave_out_ties() -> None:
    rng = np.random.default_rng(0)
    generated = rng.integers(0, 4, (150, 3)).astype(np.float32)
    reference = rng.integers(0, 4, (120, 3)).astype(np.float32)
    expected = _plain_density(generated, reference)
    result = density_coverage(generated, reference)
    np.testing.assert_array_equal(result.balls, expected.balls)
    np.testing.assert_array_equal(result.covered, expected.covered)


def test_density_counts_balls_that_overlap() -> None:
    # Every generated sample sits in the middle of all reference samples.
    reference = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    result = density_coverage(1e-3 * reference[:20], 10 + 0.01 * reference)
    assert (result.density, result.coverage) == (0.0, 0.0)
    result = density_coverage(10 + 1e-4 * reference[:20], 10 + 0.01 * reference)
    assert result.density > 1


def test_reduced_matmul_precision_changes_nothing() -> None:
    generated, reference = cloud(90, 10, seed=0), cloud(70, 10, seed=1)
    torch.set_float32_matmul_precision("medium")
    try:
        _assert_same(precision_recall(generated, reference), _plain(generated, reference))
    finally:
        torch.set_float32_matmul_precision("highest")


def test_identical_sets_are_wholly_inside_each_other() -> None:
    features = cloud(200, 32, seed=0)
    result = precision_recall(features, features.copy())
    assert (result.precision, result.recall) == (1.0, 1.0)


def test_one_collapsed_mode_has_high_precision_and_low_recall() -> None:
    reference = cloud(500, 32, seed=0)
    noise = 1e-3 * np.random.default_rng(1).standard_normal((400, 32)).astype(np.float32)
    result = precision_recall(reference[:1] + noise, reference)
    assert result.precision == 1.0
    assert result.recall <= 1 / 500


def test_disjoint_sets_score_zero() -> None:
    features = cloud(200, 32, seed=0)
    result = precision_recall(features, features + 1e4)
    assert (result.precision, result.recall) == (0.0, 0.0)


def test_constant_features_lie_only_in_their_own_point() -> None:
    constant = np.full((60, 8), 5, dtype=np.float32)
    assert precision_recall(constant, constant).precision == 1.0
    result = precision_recall(constant, cloud(60, 8, seed=0) + 50)
    assert (result.precision, result.recall) == (0.0, 0.0)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(MetricError, match="3 samples; needed more than k = 3"):
        precision_recall(cloud(3, 8, seed=0), cloud(9, 8, seed=0))
