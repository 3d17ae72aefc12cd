"""Solvers that begin later, as edits of given latents do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rdm_batch.errors import SpecError
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.dpm_solver import DpmSolver
from rdm_batch.sampling.plms import PlmsSolver
from rdm_batch.sampling.schedules import NoiseSchedule, first_step
from rdm_batch.sampling.solver import Solver
from rdm_batch.specs.networks import NoiseScheduleConfig
from tests.sampling.gaussian import gaussian_predictor, marginal_std

SCHEDULE = NoiseSchedule.from_config(NoiseScheduleConfig())
SOLVERS = [DdimSolver, PlmsSolver, DpmSolver]


def _no_noise(step: int) -> torch.Tensor:
    raise AssertionError(f"step {step} asked for noise")


@pytest.mark.parametrize("make", SOLVERS)
@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_solvers_follow_the_flow_from_wherever_they_begin(
    make: Callable[[NoiseSchedule, int], Solver], strength: float
) -> None:
    whole = make(SCHEDULE, 200)
    rest = whole.later(first_step(whole.timesteps, strength, len(SCHEDULE)))
    assert rest.timesteps[0] <= strength * len(SCHEDULE)
    assert len(whole.timesteps) == 200
    assert rest.timesteps.tolist() == whole.timesteps[-len(rest.timesteps) :].tolist()
    start = torch.full((1,), marginal_std(SCHEDULE, int(rest.timesteps[0]))).double()
    final = rest.sample(gaussian_predictor(SCHEDULE, rest), start, _no_noise)
    assert final.item() == pytest.approx(marginal_std(SCHEDULE, 0), rel=0.02)


def test_ddim_begun_later_ends_where_all_of_it_does() -> None:
    whole = DdimSolver(SCHEDULE, 12)
    between: list[torch.Tensor] = []
    start = torch.linspace(-2, 2, 5).double()
    predict = gaussian_predictor(SCHEDULE, whole)
    end = whole.sample(predict, start, _no_noise, lambda step, x, clean: between.append(x))
    rest = whole.later(7)
    again = rest.sample(gaussian_predictor(SCHEDULE, rest), between[6], _no_noise)
    assert torch.equal(end, again)


@pytest.mark.parametrize(("strength", "step"), [(1.0, 0), (0.5, 25), (0.481, 25), (0.0011, 49)])
def test_edits_begin_at_the_first_time_that_is_not_above_their_strength(
    strength: float, step: int
) -> None:
    times = np.arange(49, -1, -1) * 20 + 1
    assert first_step(times, strength, 1000) == step
    assert times[step] <= 1000 * strength


def test_a_strength_that_leaves_no_step_is_refused() -> None:
    with pytest.raises(SpecError, match=r"strength: is 0.0005, below the last of 50 steps"):
        first_step(np.arange(49, -1, -1) * 20 + 1, 0.0005, 1000)
