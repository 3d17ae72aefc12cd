from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rdm_batch.errors import SpecError
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.dpm_solver import DpmSolver
from rdm_batch.sampling.plms import PlmsSolver
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.sampling.solver import Solver
from rdm_batch.specs.networks import NoiseScheduleConfig
from tests.sampling.gaussian import gaussian_predictor, marginal_std

SCHEDULE = NoiseSchedule.from_config(NoiseScheduleConfig())
SOLVERS = [PlmsSolver, DpmSolver]


def _no_noise(step: int) -> torch.Tensor:
    raise AssertionError(f"step {step} asked for noise")


def _flow_error(solver: Solver) -> float:
    """Give the relative error against the probability flow of Gaussian data."""
    final = solver.sample(gaussian_predictor(SCHEDULE, solver), torch.ones(1).double(), _no_noise)
    exact = marginal_std(SCHEDULE, 0) / marginal_std(SCHEDULE, int(solver.timesteps[0]))
    return abs(final.item() / exact - 1)


@pytest.mark.parametrize("make", SOLVERS)
@pytest.mark.parametrize("num_steps", [10, 20, 50])
def test_multistep_solvers_are_at_least_three_times_as_accurate_as_ddim(
    make: Callable[[NoiseSchedule, int], Solver], num_steps: int
) -> None:
    ddim = _flow_error(DdimSolver(SCHEDULE, num_steps))
    assert _flow_error(make(SCHEDULE, num_steps)) < ddim / 3


def test_dpm_solver_takes_distinct_falling_times_for_every_number_of_steps() -> None:
    for num_steps in range(1, 1001):
        times = DpmSolver(SCHEDULE, num_steps).timesteps
        assert len(times) == num_steps
        assert times[0] == 999
        assert times[-1] >= 0
        assert num_steps == 1 or np.diff(times).max() < 0


def test_plms_evaluates_the_network_once_more_than_it_steps() -> None:
    evaluations: list[int] = []
    observed: list[int] = []

    def predict(x: torch.Tensor, evaluation: int) -> torch.Tensor:
        evaluations.append(evaluation)
        return torch.zeros_like(x)

    PlmsSolver(SCHEDULE, 4).sample(
        predict, torch.ones(1), _no_noise, lambda step, x, clean: observed.append(step)
    )
    assert evaluations == [0, 1, 1, 2, 3]
    assert observed == [0, 1, 2, 3]


@pytest.mark.parametrize("make", SOLVERS)
@pytest.mark.parametrize("num_steps", [1, 1000])
def test_extreme_numbers_of_steps_work(
    make: Callable[[NoiseSchedule, int], Solver], num_steps: int
) -> None:
    solver = make(SCHEDULE, num_steps)
    final = solver.sample(gaussian_predictor(SCHEDULE, solver), torch.ones(2), _no_noise)
    assert torch.isfinite(final).all()


@pytest.mark.parametrize("make", SOLVERS)
def test_observed_clean_latents_end_at_the_latents(
    make: Callable[[NoiseSchedule, int], Solver],
) -> None:
    seen: list[tuple[float, float]] = []
    solver = make(SCHEDULE, 100)
    solver.sample(
        gaussian_predictor(SCHEDULE, solver),
        torch.ones(1),
        _no_noise,
        lambda step, x, clean: seen.append((x.item(), clean.item())),
    )
    assert len(seen) == 100
    # What is left of the noise: alpha of the schedule's first time is 0.9985.
    assert seen[-1][0] == pytest.approx(seen[-1][1], rel=0.01)


@pytest.mark.parametrize("make", SOLVERS)
def test_starting_noise_is_left_as_it_was(make: Callable[[NoiseSchedule, int], Solver]) -> None:
    solver = make(SCHEDULE, 5)
    start = torch.ones(3)
    solver.sample(gaussian_predictor(SCHEDULE, solver), start, _no_noise)
    assert torch.equal(start, torch.ones(3))


@pytest.mark.parametrize("make", SOLVERS)
@pytest.mark.parametrize("num_steps", [0, 1001])
def test_number_of_steps_out_of_range_is_refused(
    make: Callable[[NoiseSchedule, int], Solver], num_steps: int
) -> None:
    with pytest.raises(SpecError, match="needed 1 to 1000 steps"):
        make(SCHEDULE, num_steps)
