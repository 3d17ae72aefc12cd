from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from rdm_batch.errors import MetricError
from rdm_batch.metrics.neighbors import NearestDistances, squared_radii, tile_pairs
from rdm_batch.metrics.precision_recall import (
    PrecisionRecall,
    finalise_precision_recall,
    precision_recall,
    precision_recall_counts,
)
from tests.metrics.examples import cloud


def _plain(generated: np.ndarray, reference: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Compute the definition with every distance in memory."""
    first, second = generated.astype(np.float64), reference.astype(np.float64)

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.square(a[:, None] - b[None]).sum(axis=2)

    first_radii = np.sort(distances(first, first), axis=1)[:, k]
    second_radii = np.sort(distances(second, second), axis=1)[:, k]
    between = distances(first, second)
    return PrecisionRecall(
        (between <= second_radii).any(axis=1), (between <= first_radii[:, None]).any(axis=0)
    )


def _assert_same(actual: PrecisionRecall, expected: PrecisionRecall) -> None:
    np.testing.assert_array_equal(actual.generated_inside, expected.generated_inside)
    np.testing.assert_array_equal(actual.reference_inside, expected.reference_inside)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_values_equal_torch_fidelity(k: int) -> None:
    generated, reference = cloud(700, 48, seed=0), cloud(500, 48, seed=1, spread=1.1)
    theirs = prc_features_to_metric(
        torch.from_numpy(generated), torch.from_numpy(reference), prc_neighborhood=k, verbose=False
    )
    ours = precision_recall(generated, reference, k)
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


def test_parts_of_the_rows_merge_to_the_whole() -> None:
    generated, reference = cloud(200, 10, seed=0), cloud(150, 10, seed=1)
    pairs = tile_pairs(len(generated), 64)
    nearest = NearestDistances(generated, 4)
    for part_of_pairs in (pairs[5:], pairs[:2], pairs[2:5]):
        other = NearestDistances(generated, 4)
        other.update_within(part_of_pairs)
        nearest.merge(other)
    radii = nearest.smallest[:, 3]
    reference_radii = squared_radii(reference, 3)
    merged = precision_recall_counts(generated, reference, radii, reference_radii)
    for rows in (slice(150, 200), slice(0, 31), slice(31, 150)):
        part = precision_recall_counts(generated, reference, radii, reference_radii)
        part.update(rows)
        merged.merge(part)
    _assert_same(finalise_precision_recall(merged), _plain(generated, reference))


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
