"""Nights drawn from pairs, made up."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.experiments.tier2 import NEEDED, NIGHT, Drawn, rows_of


def drawn(moved: float, error: float, nights: int = 2_000) -> Drawn:
    noise = error * np.random.default_rng(0).standard_normal(nights)
    # As draws without replacement vary: a quarter of all there are is left out of the noise.
    return Drawn(moved + noise * (1 - 0.25) ** 0.5, np.full(nights, error))


def test_draws_without_replacement_are_widened_to_what_new_samples_do() -> None:
    found = drawn(0.1, 0.01).widened(0.25)
    assert found.differences.mean() == pytest.approx(0.1, abs=0.001)
    assert found.differences.std() == pytest.approx(0.01, rel=0.05)


def test_what_is_moved_by_delta_is_passed_as_often_as_the_level_says() -> None:
    (row,) = rows_of({"fid": drawn(0.1, 0.01)}, "a change", {"fid": 0.05})
    assert row.value == pytest.approx(NEEDED, abs=0.006)
    assert row.met
    assert row.details["moved by 1.2 deltas, not passed"] == 1
    assert float(row.details["fail with it"] or 0) > 0.98
    # With the error of a pair taken too small it would be passed more often, and is told.
    lucky = Drawn(drawn(0.1, 0.01).differences, np.full(2_000, 0.003))
    (row,) = rows_of({"fid": lucky}, "a change", {"fid": 0.05})
    assert row.met is False


def test_what_nothing_could_pass_is_not_counted() -> None:
    (row,) = rows_of({"fid": drawn(0.001, 0.01)}, "a change", {"fid": 0.05})
    assert row.needed is None
    assert row.details["pass with it"] == pytest.approx(1, abs=0.02)
    shares = drawn(0.0, 0.01).shares(0.05, NIGHT)
    assert sum(shares.values()) == 1
