"""Solvers and the KL autoencoder against an independent implementation.

``data/diffusers.npz`` was computed with diffusers 0.42.1 (PNDMScheduler with
skip_prk_steps and steps_offset 1, DPMSolverMultistepScheduler with dpmsolver++,
AutoencoderKL) on CPU in float32, with torch 2.14. The solvers were given the noise
predictions of ``_predict``, the autoencoder the weights of the recipe with seed 70001.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rdm_batch.models.autoencoder import KlAutoencoder
from rdm_batch.sampling.dpm_solver import DpmSolver
from rdm_batch.sampling.plms import PlmsSolver
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.sampling.solver import Solver
from rdm_batch.specs.networks import KlAutoencoderConfig, NoiseScheduleConfig
from tests.compare import relative_error
from tests.parity.recipe import raw_weights
from tests.tolerances import DECODED_REL, NETWORK_REL

SCHEDULE = NoiseSchedule.from_config(NoiseScheduleConfig())


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "diffusers.npz") as file:
        return dict(file)


def _predict(solver: Solver) -> Callable[[torch.Tensor, int], torch.Tensor]:
    def predict(x: torch.Tensor, evaluation: int) -> torch.Tensor:
        time = int(solver.timesteps[evaluation])
        return torch.tanh(x) * float(np.cos(time / 300)) + 0.3 * x

    return predict


def _no_noise(step: int) -> torch.Tensor:
    raise AssertionError(f"step {step} asked for noise")


@pytest.mark.parametrize("num_steps", [2, 5, 10, 20])
def test_plms_takes_the_same_steps(reference: dict[str, np.ndarray], num_steps: int) -> None:
    solver = PlmsSolver(SCHEDULE, num_steps)
    final = solver.sample(_predict(solver), torch.from_numpy(reference["start"]), _no_noise)
    assert relative_error(final, reference[f"plms{num_steps}"]) <= NETWORK_REL


@pytest.mark.parametrize("rule", ["even", "published"])
@pytest.mark.parametrize("num_steps", [2, 5, 10, 20])
def test_dpm_solver_takes_the_same_steps(
    reference: dict[str, np.ndarray], num_steps: int, rule: str
) -> None:
    solver = DpmSolver(SCHEDULE, num_steps, rule)
    case = f"dpm{num_steps}_{rule}"
    assert np.array_equal(solver.timesteps, reference[f"{case}_times"])
    final = solver.sample(_predict(solver), torch.from_numpy(reference["start"]), _no_noise)
    assert relative_error(final, reference[case]) <= NETWORK_REL


def test_kl_autoencoder_computes_the_same(reference: dict[str, np.ndarray]) -> None:
    network = KlAutoencoder(
        KlAutoencoderConfig(
            channels=32, channel_mult=(1, 2), resolution=16, latent_channels=4, embed_dim=4
        )
    )
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    network.load_state_dict(raw_weights(shapes, seed=70001))
    mean, log_variance = network.moments(torch.from_numpy(reference["img"]))
    assert relative_error(mean, reference["mean"]) <= NETWORK_REL
    assert relative_error(log_variance, reference["logvar"]) <= NETWORK_REL
    images = network.decode(torch.from_numpy(reference["z"]))
    assert relative_error(images, reference["decoded"]) <= DECODED_REL
