"""Steps of a history: found, placed, and not found where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.errors import RegressionError
from rdm_batch.regression.statistics.steps import (
    CLIP,
    StepRule,
    find_steps,
    levels,
)


def nights(*stretches: tuple[int, float], noise: float = 0.01, seed: int = 0) -> np.ndarray:
    level = np.concatenate([np.full(count, value) for count, value in stretches])
    return level * (1 + noise * np.random.default_rng(seed).standard_normal(len(level)))


def strength_by_the_definition(values: np.ndarray, rule: StepRule) -> tuple[float, int]:
    """Compute the last night's statistic plainly: one candidate split after the other."""
    most = min(rule.after, len(values) - rule.least_before)
    length = min(rule.before, len(values) - most)
    best = (0.0, 0)
    for count in range(rule.least_after, most + 1):
        split = len(values) - count
        before = values[split - length : split]
        median = np.median(before)
        width = 3 * 1.4826 * np.median(abs(before - median))
        cut = np.array([max(-width, min(width, value - median)) for value in before])
        middle, spread = median + cut.mean(), max(cut.std(ddof=1), 1e-3 * median)
        total = sum(max(-CLIP, min(CLIP, (value - middle) / spread)) for value in values[split:])
        # Variance of a sum over count nights, each less one and the same estimate.
        strength = total / np.sqrt(count + count**2 / length)
        if abs(strength) > abs(best[0]):
            best = (float(strength), split)
    return best


def test_the_statistic_is_that_of_its_definition() -> None:
    rule = StepRule(threshold=2.0, least_change=0.0)
    values = nights((40, 100.0), (30, 103.0), seed=3)
    step = find_steps(values, rule)[0]
    told = values[: step.noticed + 1]
    strength, split = strength_by_the_definition(told, rule)
    assert step.strength == pytest.approx(strength, rel=1e-12)
    assert step.at == split


def test_a_step_is_told_within_three_nights_and_placed_where_it_is() -> None:
    steps = find_steps(nights((60, 100.0), (30, 95.0), (30, 100.0)))
    assert [step.at for step in steps] == [60, 90]
    assert all(step.noticed - step.at <= 2 for step in steps)
    assert steps[0].change == pytest.approx(-0.05, abs=0.02)
    assert steps[0].strength < 0 < steps[1].strength
    found = levels(nights((60, 100.0), (30, 95.0), (30, 100.0)), steps)
    assert [(level.first, level.last) for level in found] == [(0, 59), (60, 89), (90, 119)]
    # Medians of 30 nights of 1 % noise are good to 0.25 %.
    assert [level.value for level in found] == pytest.approx([100, 95, 100], rel=0.01)


def test_single_bad_nights_are_no_step_however_bad() -> None:
    values = nights((120, 100.0))
    values[[40, 60, 90]] = [20.0, 900.0, 30.0]
    assert find_steps(values) == []


def test_eight_years_without_a_change_have_two_steps_at_most() -> None:
    found = [find_steps(nights((365, 7.0), seed=seed)) for seed in range(8)]
    assert sum(map(len, found)) <= 2


def test_what_repeats_exactly_has_no_steps_in_its_last_digits() -> None:
    values = np.full(40, 3_000_000.0)
    values[20:] += 1_000
    assert find_steps(values) == []
    values[30:] *= 1.1
    assert [step.at for step in find_steps(values)] == [30]


def test_a_change_smaller_than_matters_is_no_step() -> None:
    values = nights((60, 100.0), (60, 101.5), noise=0.001)
    assert find_steps(values) == []
    assert [step.at for step in find_steps(values, StepRule(least_change=0.01))] == [60]


def test_later_nights_take_nothing_back() -> None:
    values = nights((40, 100.0), (5, 93.0), (60, 100.0), (40, 108.0), seed=5)
    whole = find_steps(values)
    for length in range(0, len(values), 7):
        told = [step for step in whole if step.noticed < length]
        assert find_steps(values[:length]) == told


def test_too_short_a_history_says_nothing() -> None:
    assert find_steps(np.array([])) == []
    assert find_steps(nights((9, 100.0), (2, 10.0))) == []
    assert levels(np.array([]), []) == []


def test_values_that_are_no_speeds_are_refused() -> None:
    for wrong in (np.nan, 0.0, -1.0, np.inf):
        with pytest.raises(RegressionError, match="night 1"):
            find_steps(np.array([1.0, wrong, 1.0]))
