from __future__ import annotations

import numpy as np
import pytest
import torch

from rdm_batch.errors import SpecError
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.networks import NoiseScheduleConfig
from tests.sampling.gaussian import gaussian_predictor, marginal_std

SCHEDULE = NoiseSchedule.from_config(NoiseScheduleConfig())


def _refuse(step: int) -> torch.Tensor:
    raise AssertionError(f"step {step} asked for noise")


def _flow_error(num_steps: int) -> float:
    """Give the relative error of the scaling that deterministic sampling amounts to."""
    solver = DdimSolver(SCHEDULE, num_steps, eta=0.0)
    final = solver.sample(gaussian_predictor(SCHEDULE, solver), torch.ones(1).double(), _refuse)
    exact = marginal_std(SCHEDULE, 0) / marginal_std(SCHEDULE, int(solver.timesteps[0]))
    return abs(final.item() / exact - 1)


def test_deterministic_sampling_converges_to_the_probability_flow_at_first_order() -> None:
    assert _flow_error(500) < 0.01
    assert _flow_error(125) / _flow_error(500) == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_sampling_reaches_the_distribution_of_the_data(eta: float) -> None:
    solver = DdimSolver(SCHEDULE, 1000, eta=eta)
    generator = torch.Generator().manual_seed(0)

    def draw(step: int = 0) -> torch.Tensor:
        return torch.randn(50_000, generator=generator)

    final = solver.sample(gaussian_predictor(SCHEDULE, solver), draw(), draw)
    # Five standard errors of a standard deviation from 50,000 draws are 1.6 %.
    assert final.std().item() == pytest.approx(marginal_std(SCHEDULE, 0), rel=0.016)


def test_every_step_draws_noise_once_with_eta_above_zero_and_never_without() -> None:
    for eta, expected in [(0.0, []), (0.5, list(range(10)))]:
        steps: list[int] = []

        def noise(step: int, steps: list[int] = steps) -> torch.Tensor:
            steps.append(step)
            return torch.zeros(1)

        solver = DdimSolver(SCHEDULE, 10, eta)
        solver.sample(gaussian_predictor(SCHEDULE, solver), torch.ones(1), noise)
        assert steps == expected


def test_network_is_evaluated_once_a_step_at_falling_times() -> None:
    solver = DdimSolver(SCHEDULE, 7)
    evaluations: list[int] = []

    def predict(x: torch.Tensor, evaluation: int) -> torch.Tensor:
        evaluations.append(evaluation)
        return torch.zeros_like(x)

    solver.sample(predict, torch.ones(1), _refuse)
    assert evaluations == list(range(7))
    assert np.diff(solver.timesteps).max() < 0


def test_starting_noise_is_left_as_it_was() -> None:
    solver = DdimSolver(SCHEDULE, 3, 1.0)
    start = torch.ones(4)
    solver.sample(gaussian_predictor(SCHEDULE, solver), start, lambda step: torch.ones(4))
    assert torch.equal(start, torch.ones(4))


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_out_of_range_is_refused(eta: float) -> None:
    with pytest.raises(SpecError, match=r"sampling.eta: .*needed 0 to 1"):
        DdimSolver(SCHEDULE, 10, eta)
