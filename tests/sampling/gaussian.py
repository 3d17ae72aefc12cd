"""A reverse process known in closed form: data are Gaussian with mean 0."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.sampling.solver import Solver

DATA_STD = 0.5


def gaussian_predictor(
    schedule: NoiseSchedule, solver: Solver
) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Predict the noise in noisy Gaussian data without error."""

    def predict(x: torch.Tensor, evaluation: int) -> torch.Tensor:
        alpha = float(schedule.alphas_cumprod[solver.timesteps[evaluation]])
        return x * (1 - alpha) ** 0.5 / (alpha * DATA_STD**2 + 1 - alpha)

    return predict


def marginal_std(schedule: NoiseSchedule, time: int) -> float:
    """Give the standard deviation of noisy data at a time.

    The probability flow ODE of Gaussian data scales by the ratio of these.
    """
    alpha = float(schedule.alphas_cumprod[time])
    return float(np.sqrt(alpha * DATA_STD**2 + 1 - alpha))
