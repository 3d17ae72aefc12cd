from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.errors import SpecError
from rdm_batch.sampling.schedules import NoiseSchedule, solver_timesteps
from rdm_batch.specs.networks import NoiseScheduleConfig


@pytest.mark.parametrize("num_steps", [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500])
def test_rules_agree_where_the_published_one_gives_what_was_asked_for(num_steps: int) -> None:
    even = solver_timesteps(num_steps, 1000, "even")
    assert np.array_equal(even, solver_timesteps(num_steps, 1000, "published"))


def test_even_rule_gives_distinct_times_in_range_for_every_number_of_steps() -> None:
    for num_steps in range(1, 1001):
        times = solver_timesteps(num_steps, 1000)
        assert len(times) == num_steps
        assert times[0] >= 0
        assert times[-1] <= 999
        assert num_steps == 1 or np.diff(times).min() >= 1


def test_published_rule_takes_more_steps_than_asked_for() -> None:
    assert solver_timesteps(7, 1000, "published").tolist() == [
        1,
        143,
        285,
        427,
        569,
        711,
        853,
        995,
    ]


def test_published_rule_refuses_the_599_numbers_of_steps_that_overrun_the_schedule() -> None:
    refused = []
    for num_steps in range(1, 1001):
        try:
            solver_timesteps(num_steps, 1000, "published")
        except SpecError as error:
            refused.append(error)
    assert len(refused) == 599
    assert all("use the timestep rule 'even'" in error.action for error in refused)


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_number_of_steps_out_of_range_is_refused(num_steps: int) -> None:
    with pytest.raises(SpecError, match=f"{num_steps} steps; needed 1 to 1000"):
        solver_timesteps(num_steps, 1000)


def test_schedule_starts_near_one_and_falls() -> None:
    schedule = NoiseSchedule.from_config(NoiseScheduleConfig())
    assert len(schedule) == 1000
    assert schedule.alphas_cumprod[0] == pytest.approx(1 - 0.0015)
    assert np.diff(schedule.alphas_cumprod).max() < 0
