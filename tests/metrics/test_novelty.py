"""Which samples count as copies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rdm_batch.errors import MetricError
from rdm_batch.metrics.novelty import copies
from rdm_batch.metrics.resampling import share_error


@pytest.mark.parametrize("held_out", [100, 101, 250, 1000])
def test_a_sample_counts_below_the_hundredth_of_held_out_images(held_out: int) -> None:
    random = np.random.default_rng(held_out)
    neighbors, independent = random.random(500) ** 3, random.random(held_out)
    threshold = sorted(independent.tolist())[math.ceil(held_out / 100) - 1]
    expected = [distance < threshold for distance in neighbors.tolist()]
    assert copies(neighbors, independent).tolist() == expected
    assert 0 < sum(expected) < 500


def test_of_independent_pictures_at_most_one_in_a_hundred_counts() -> None:
    for seed in range(20):
        independent = np.random.default_rng(seed).random(317)
        assert copies(independent, independent).mean() <= 0.01
    # As near as the nearest is not nearer.
    assert not copies(np.zeros(50), np.zeros(100)).any()


def test_planted_copies_are_counted() -> None:
    random = np.random.default_rng(0)
    neighbors = 0.2 + random.random(300)
    neighbors[::10] = 1e-6
    assert copies(neighbors, 0.1 + random.random(200)).mean() == 0.1


def test_the_error_is_the_spread_over_sets_of_samples() -> None:
    random = np.random.default_rng(0)
    independent = random.random(400)
    found = [copies(random.random(300) ** 3, independent) for _ in range(200)]
    spread = np.std([each.mean() for each in found], ddof=1)
    assert np.mean([share_error(each) for each in found]) == pytest.approx(spread, rel=0.15)


def test_a_hundred_held_out_images_are_needed() -> None:
    with pytest.raises(MetricError, match="99 held-out images; needed 100 or more"):
        copies(np.ones(5), np.ones(99))
