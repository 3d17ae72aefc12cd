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
    looks_of,
    pairs_that_decide,
    ratio_of_pairs,
)


def test_turns_cancel_a_straight_drift() -> None:
    order = in_turn(6)
    assert order[:8] == ["A", "B", "B", "A", "A", "B", "B", "A"]
    drift = np.arange(12.0)
    sides = np.array(order)
    assert drift[sides == "A"].mean() == drift[sides == "B"].mean()


@pytest.mark.parametrize(("pairs", "looks"), [(6, 1), (8, 5), (11, 1), (12, 3)])
def test_interval_holds_what_wilcoxons_test_does_not_refuse(pairs: int, looks: int) -> None:
    random = np.random.default_rng(pairs)
    first, second = np.exp(0.05 * random.standard_normal((2, pairs)))
    found = ratio_of_pairs(first, second, looks)
    assert found.confidence == 1 - 0.05 / looks

    def p_value(ratio: float) -> float:
        logs = np.log(second / first) - np.log(ratio)
        return float(scipy.stats.wilcoxon(logs, method="exact").pvalue)

    # Just inside the interval the test says nothing, just outside it does.
    for edge, step in ((found.low, -1e-9), (found.high, 1e-9)):
        assert p_value(edge * (1 - step)) > 0.05 / looks
        assert p_value(edge * (1 + step)) <= 0.05 / looks
    means = [
        (a + b) / 2 for a, b in itertools.combinations_with_replacement(_logs(first, second), 2)
    ]
    assert found.value == pytest.approx(np.exp(np.median(means)), rel=1e-12)


def _logs(first: np.ndarray, second: np.ndarray) -> list[float]:
    return list(np.log(second / first))


def test_what_a_pair_shares_cancels_and_equal_figures_have_no_width() -> None:
    random = np.random.default_rng(1)
    shared = np.exp(0.2 * random.standard_normal(30))
    first, second = (shared * np.exp(0.01 * random.standard_normal(30)) for _ in range(2))
    found = ratio_of_pairs(first, 0.9 * second)
    assert found.low < 0.9 < found.high
    assert found.high - found.low < 0.02
    apart = ratio_of_pairs(first, 0.9 * random.permutation(second))
    assert apart.high - apart.low > 5 * (found.high - found.low)
    same = ratio_of_pairs(np.full(8, 5.0), np.full(8, 6.0), 5)
    assert (same.low, same.high) == pytest.approx((1.2, 1.2), rel=1e-12)


def test_all_looks_together_err_less_often_than_they_say() -> None:
    random = np.random.default_rng(2)
    looks, trials, wrong, taken = looks_of(40), 300, 0, []
    for _ in range(trials):
        # Just what is tolerated: neither verdict is right.
        first, second = np.exp(0.02 * random.standard_normal((2, 40)))
        for pairs in looks:
            ratio = ratio_of_pairs(first[:pairs], 0.97 * second[:pairs], len(looks))
            outcome = judge_ratio(ratio, 0.03, "higher")
            if outcome != "undecided":
                break
        wrong += outcome != "undecided"
        # Nothing has changed: it passes, and most often long before the last pair.
        for pairs in looks:
            ratio = ratio_of_pairs(first[:pairs], second[:pairs], len(looks))
            if judge_ratio(ratio, 0.03, "higher") == "pass":
                break
        taken.append(pairs)
    # 0.05 at most, to a standard error of 0.0126.
    assert wrong / trials < 0.05 + 2 * 0.0126
    assert np.mean(taken) < 20


def test_looks_end_at_the_last_pair_and_begin_where_they_can_decide() -> None:
    assert looks_of(40) == (8, 12, 18, 27, 40)
    assert looks_of(9) == (9,)
    for most in range(6, 100):
        looks = looks_of(most)
        assert looks[-1] == most
        assert 2.0 ** (1 - looks[0]) <= 0.05 / len(looks)
    with pytest.raises(RegressionError, match="6 pairs or more"):
        looks_of(5)


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
    with pytest.raises(RegressionError, match="6 pairs or more"):
        ratio_of_pairs(np.ones(5), np.ones(5))
    with pytest.raises(RegressionError, match="8 pairs or more"):
        ratio_of_pairs(np.ones(7), np.ones(7), 5)
    with pytest.raises(RegressionError, match="above 0"):
        ratio_of_pairs(np.ones(6), np.array([1, 1, 0, 1, 1, 1.0]))


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
