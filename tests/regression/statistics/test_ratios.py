"""Ratios of interleaved runs, and bounds from several seeds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from rdm_batch.errors import RegressionError
from rdm_batch.regression.statistics.bounds import bounds_from_seeds
from rdm_batch.regression.statistics.ratios import (
    Ratio,
    in_turn,
    judge_ratio,
    pairs_that_decide,
    ratio_of_medians,
)


def test_turns_cancel_a_straight_drift() -> None:
    order = in_turn(6)
    assert order[:8] == ["A", "B", "B", "A", "A", "B", "B", "A"]
    drift = np.arange(12.0)
    sides = np.array(order)
    assert drift[sides == "A"].mean() == drift[sides == "B"].mean()


def test_interval_is_that_of_all_resamples_of_five_pairs() -> None:
    random = np.random.default_rng(0)
    first, second = 1 + 0.05 * random.random((2, 5))
    found = ratio_of_medians(first, second)
    drawn = np.array(list(itertools.product(range(5), repeat=5)))  # 3,125, each as likely
    ratios = np.median(second[drawn], axis=1) / np.median(first[drawn], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert found.value == np.median(second) / np.median(first)
    # 10,000 of them stand for all: a neighboring value of few distinct ones may be the quantile.
    spread = ratios.max() - ratios.min()
    assert found.low == pytest.approx(low, abs=0.05 * spread)
    assert found.high == pytest.approx(high, abs=0.05 * spread)


def test_interval_is_close_to_scipys_bootstrap_and_pairs_make_it_narrow() -> None:
    random = np.random.default_rng(1)
    shared = np.exp(0.2 * random.standard_normal(30))
    first, second = (shared * np.exp(0.01 * random.standard_normal(30)) for _ in range(2))
    found = ratio_of_medians(first, 0.9 * second)

    def statistic(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(b, axis=axis) / np.median(a, axis=axis)

    other = scipy.stats.bootstrap(
        (first, 0.9 * second), statistic, paired=True, method="percentile", rng=2
    ).confidence_interval
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.1 * width)
    apart = ratio_of_medians(first, 0.9 * random.permutation(second))
    assert apart.high - apart.low > 2 * width
    assert ratio_of_medians(first, 0.9 * second) == found


def test_interval_of_five_pairs_covers_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    covered = []
    for _ in range(150):
        first, second = np.exp(0.03 * random.standard_normal((2, 5)))
        found = ratio_of_medians(first, second)
        covered.append(found.low <= 1 <= found.high)
    # 0.95 are asked for. Percentile intervals of so few err by some; 150 draws tell to 0.02.
    assert np.mean(covered) > 0.88


@pytest.mark.parametrize(
    ("low", "high", "better", "outcome"),
    [
        (0.97, 1.02, "higher", "pass"),
        (1.10, 1.20, "higher", "pass"),
        (0.90, 0.94, "higher", "fail"),
        (0.93, 0.99, "higher", "undecided"),
        (0.97, 1.02, "lower", "pass"),
        (0.50, 0.60, "lower", "pass"),
        (1.06, 1.20, "lower", "fail"),
        (1.01, 1.20, "lower", "undecided"),
    ],
)
def test_only_getting_worse_fails(low: float, high: float, better: str, outcome: str) -> None:
    ratio = Ratio((low + high) / 2, low, high, 5)
    assert judge_ratio(ratio, 0.05, better) == outcome
    assert pairs_that_decide(ratio, 0.05, better) > 5


def test_too_few_pairs_and_impossible_figures_are_refused() -> None:
    with pytest.raises(RegressionError, match="5 pairs or more"):
        ratio_of_medians(np.ones(4), np.ones(4))
    with pytest.raises(RegressionError, match="above 0"):
        ratio_of_medians(np.ones(5), np.array([1, 1, 0, 1, 1.0]))


def test_bounds_hold_the_next_seed_as_often_as_they_say() -> None:
    random = np.random.default_rng(3)
    values = random.normal(5, 0.3, (2_000, 6))
    inside = []
    for row in values:
        bounds = bounds_from_seeds(row[:5], 0.9)
        inside.append(bounds.side(row[5]) is None)
    # 0.9, to 0.007 with 2,000 draws.
    assert np.mean(inside) == pytest.approx(0.9, abs=0.02)


def test_bounds_are_scipys_interval_of_a_prediction_and_have_two_sides() -> None:
    values = np.array([4.9, 5.2, 5.0, 5.4])
    bounds = bounds_from_seeds(values, 0.95)
    scale = values.std(ddof=1) * (1 + 1 / 4) ** 0.5
    expected = scipy.stats.t.interval(0.95, 3, loc=values.mean(), scale=scale)
    assert (bounds.low, bounds.high) == pytest.approx(expected, rel=1e-12)
    assert [bounds.side(value) for value in (5.1, 9.0, 1.0)] == [None, "above", "below"]
    assert bounds.side(np.nan) is not None
    with pytest.raises(RegressionError, match="3 or more"):
        bounds_from_seeds(values[:2])
