"""Two one-sided tests, Holm's adjustment and power, each against another computation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from rdm_batch.errors import RegressionError
from rdm_batch.regression.statistics.equivalence import ALPHA, Equivalence, equivalence
from rdm_batch.regression.statistics.multiple import holm, outcomes_of_jobs
from rdm_batch.regression.statistics.power import (
    detectable,
    equivalence_power,
    samples_to_pass,
)

# Two ways to the same quantiles, by scipy's own tests and by ours: double rounding.
REL = 1e-9


def of(values: np.ndarray, margin: float, alpha: float = 0.05) -> Equivalence:
    error = values.std(ddof=1) / len(values) ** 0.5
    return equivalence(float(values.mean()), float(error), len(values), margin, alpha)


def test_interval_and_probabilities_are_those_of_scipys_tests() -> None:
    values = np.random.default_rng(0).normal(0.1, 1, 40)
    found = of(values, 0.5)
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=REL)
    below = scipy.stats.ttest_1samp(values, 0.5, alternative="less").pvalue
    above = scipy.stats.ttest_1samp(values, -0.5, alternative="greater").pvalue
    assert found.p_equivalent == pytest.approx(max(below, above), rel=REL)
    beyond = scipy.stats.ttest_1samp(values, 0.05, alternative="greater").pvalue
    assert of(values, 0.05).p_different == pytest.approx(beyond, rel=REL)


@pytest.mark.parametrize(
    ("difference", "outcome"),
    [(0.0, "pass"), (-0.3, "pass"), (0.8, "undecided"), (-1.1, "undecided"), (1.5, "fail")],
)
def test_three_outcomes_go_with_where_the_interval_lies(difference: float, outcome: str) -> None:
    found = equivalence(difference, 0.2, 101, 1.0, 0.05)
    assert found.outcome == outcome
    inside, outside = max(abs(found.low), abs(found.high)) < 1, min(found.low, -found.high) > 1
    outside = outside or found.low > 1 or found.high < -1
    assert (inside, outside) == (outcome == "pass", outcome == "fail")
    assert (found.needed is None) == (outcome != "undecided")


def test_an_equal_set_passes_and_a_sure_difference_fails_without_any_error() -> None:
    assert equivalence(0.0, 0.0, 100, 0.1).outcome == "pass"
    assert equivalence(0.2, 0.0, 100, 0.1).outcome == "fail"


def test_the_samples_it_asks_for_decide() -> None:
    found = equivalence(0.08, 0.05, 100, 0.1)
    assert found.needed is not None
    random = np.random.default_rng(1)
    means = 0.08 + 0.5 / found.needed**0.5 * random.standard_normal(2_000)
    decided = [
        equivalence(mean, 0.5 / found.needed**0.5, found.needed, 0.1).outcome == "pass"
        for mean in means
    ]
    # 0.9 is asked for; 2,000 draws give it to 0.007.
    assert 0.87 < np.mean(decided) < 0.93
    assert equivalence(0.1, 0.05, 100, 0.1).needed is None


def test_by_default_a_whole_margin_passes_once_in_a_hundred() -> None:
    values = np.random.default_rng(6).standard_normal((3_000, 25)) + 1.0
    passed = [of(row, 1.0, ALPHA).outcome == "pass" for row in values]
    # 0.01, to 0.002 with 3,000 draws.
    assert np.mean(passed) == pytest.approx(0.01, abs=0.006)
    assert equivalence(0.0, 0.1, 50, 1.0).confidence == pytest.approx(0.98)


def test_false_passes_and_false_alarms_stay_at_their_level() -> None:
    random = np.random.default_rng(2)
    values = random.standard_normal((2_000, 25))
    at_margin = [of(row + 0.6, 0.6).outcome for row in values]
    # 0.05 each at the margin itself, to 0.005 with 2,000 draws.
    assert 0.03 < at_margin.count("pass") / 2_000 < 0.07
    assert 0.03 < at_margin.count("fail") / 2_000 < 0.07


@pytest.mark.parametrize(
    "wrong",
    [
        (np.nan, 1.0, 9, 1.0),
        (0.0, -1.0, 9, 1.0),
        (0.0, 1.0, 1, 1.0),
        (0.0, 1.0, 9, 0.0),
        (0.0, np.inf, 9, 1.0),
    ],
)
def test_numbers_without_meaning_are_refused(wrong: tuple[float, float, int, float]) -> None:
    with pytest.raises(RegressionError, match="equivalence"):
        equivalence(*wrong)


def by_closed_testing(p_values: tuple[float, ...]) -> list[float]:
    """Adjust by the closure of Bonferroni's test, from the definition: 2^m intersections."""
    numbers = range(len(p_values))
    adjusted = [0.0] * len(p_values)
    for size in range(1, len(p_values) + 1):
        for some in itertools.combinations(numbers, size):
            p_all = min(1.0, size * min(p_values[i] for i in some))
            for i in some:
                adjusted[i] = max(adjusted[i], p_all)
    return adjusted


def test_holm_is_the_closure_of_bonferronis_test() -> None:
    random = np.random.default_rng(3)
    for count in range(1, 8):
        p_values = tuple(random.random(count) ** 3)
        assert holm(p_values) == pytest.approx(by_closed_testing(p_values), rel=REL)
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([]) == []
    with pytest.raises(RegressionError, match="probabilities"):
        holm([0.1, np.nan])


def test_one_of_eight_jobs_has_to_be_surer_to_fail_and_passes_as_before() -> None:
    # One-sided p of 0.02 to be beyond the margin: enough alone, not among eight.
    beyond = 1 + 0.2 * scipy.stats.t.isf(0.02, 100)
    alone, same = (equivalence(shift, 0.2, 101, 1.0, 0.05) for shift in (beyond, 0.0))
    assert alone.outcome == "fail"
    assert outcomes_of_jobs([alone], 0.05) == ["fail"]
    assert outcomes_of_jobs([alone, *[same] * 7], 0.05) == ["undecided", *["pass"] * 7]


def test_power_is_what_simulated_tests_reach() -> None:
    random = np.random.default_rng(4)
    rows = random.standard_normal((2_000, 60)) + 0.1
    passed = np.mean([of(row, 0.5).outcome == "pass" for row in rows])
    # Simulated to 0.009; the known error of the formula adds as much at 60 samples.
    assert equivalence_power(1.0, 60, 0.5, 0.1, 0.05) == pytest.approx(passed, abs=0.02)


def test_samples_to_pass_are_the_fewest() -> None:
    count = samples_to_pass(2.0, 0.4, 0.1)
    assert count is not None
    assert equivalence_power(2.0, count, 0.4, 0.1) >= 0.9
    assert equivalence_power(2.0, count - 1, 0.4, 0.1) < 0.9
    assert samples_to_pass(2.0, 0.4, 0.4) is None
    # Four times the variance, four times the samples.
    assert samples_to_pass(4.0, 0.4, 0.1) == pytest.approx(4 * count, rel=0.01)


def test_what_is_detectable_is_found_as_often_as_it_says() -> None:
    shift = detectable(1.0, 30, 0.05)
    rows = np.random.default_rng(5).standard_normal((4_000, 30)) + shift
    found = np.mean(scipy.stats.ttest_1samp(rows, 0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.9, abs=0.02)
