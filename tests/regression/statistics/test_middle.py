from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from rdm_batch.regression.statistics.middle import middle_half


def test_it_is_scipys_trimmed_mean_and_of_few_values_the_median() -> None:
    values = np.random.default_rng(0).standard_normal((7, 24))
    assert middle_half(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25, axis=1))
    for count in (1, 2, 3, 5):
        few = values[:, :count]
        assert middle_half(few) == pytest.approx(np.median(few, axis=1))


@pytest.mark.parametrize("count", [3, 4, 9, 15, 25])
def test_a_quarter_of_the_repeats_may_be_anything(count: int) -> None:
    values = np.full(count, 10.0) + np.arange(count) / 100
    spoiled = values.copy()
    spoiled[: count // 4] = 1e9
    (found,) = middle_half(spoiled[None])
    assert 10 <= found <= 10 + count / 100


def test_of_normal_noise_it_moves_less_than_a_median() -> None:
    drawn = np.random.default_rng(1).standard_normal((4_000, 25))
    # Asymptotically 0.873; 4,000 nights tell to about a hundredth.
    assert middle_half(drawn).std() / np.median(drawn, axis=1).std() < 0.93
