"""The DDIM solver (Song et al. 2021, arXiv:2010.02502)."""

from __future__ import annotations

import copy

import numpy as np
from torch import Tensor

from rdm_batch.errors import SpecError
from rdm_batch.sampling.schedules import NoiseSchedule, TimestepRule, solver_timesteps
from rdm_batch.sampling.solver import Observe, Predict, StepNoise


class DdimSolver:
    """Draw latents with DDIM (Song et al. 2021, arXiv:2010.02502, Eq. 12 and 16).

    As in the published scripts the last step ends at the schedule's first noise level, not
    at none: with eta above 0 it adds noise too, and with eta 0 a trace of it stays in the
    latents. Predicted clean latents are not clipped.

    Args:
        schedule: The forward process the network was trained on.
        num_steps: Number of steps.
        eta: 0 is deterministic, 1 adds as much noise as the forward process took away.
        rule: How times are chosen; see ``solver_timesteps``.

    Attributes:
        timesteps: Times in the order of sampling, largest first.
        alphas: a_t at these times, float64 like the following.
        alphas_prev: a_t at the time each step goes to.
        sigmas: Standard deviation of the noise each step adds.

    Raises:
        SpecError: ``num_steps`` or ``eta`` is out of range.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        num_steps: int,
        eta: float = 0.0,
        rule: TimestepRule = "even",
    ) -> None:
        if not 0 <= eta <= 1:
            raise SpecError("sampling.eta", f"{eta}", "0 to 1")
        times = solver_timesteps(num_steps, len(schedule), rule)
        alphas_cumprod = schedule.alphas_cumprod.astype(np.float64)
        rising = alphas_cumprod[times]
        previous = np.concatenate([alphas_cumprod[:1], rising[:-1]])
        self.timesteps = times[::-1].copy()
        self.alphas = rising[::-1].copy()
        self.alphas_prev = previous[::-1].copy()
        self.sigmas = eta * np.sqrt(
            (1 - self.alphas_prev) / (1 - self.alphas) * (1 - self.alphas / self.alphas_prev)
        )

        # Both predictions of a step are linear in x and eps, so the step is as well:
        # x_prev = sqrt(a_prev) x0 + sqrt(1 - a_prev - sigma^2) eps, with
        # x0 = (x - sqrt(1 - a) eps) / sqrt(a). The coefficients are summed in double precision.
        self._x_weights = np.sqrt(self.alphas_prev / self.alphas)
        directions = np.sqrt(1 - self.alphas_prev - self.sigmas**2)
        self._eps_weights = directions - self._x_weights * np.sqrt(1 - self.alphas)

    def later(self, first: int) -> DdimSolver:
        """Give the solver of the later steps; see ``Solver``."""
        rest = copy.copy(self)
        for name in (
            *("timesteps", "alphas", "alphas_prev", "sigmas"),
            *("_x_weights", "_eps_weights"),
        ):
            setattr(rest, name, getattr(self, name)[first:])
        return rest

    def advance(self, x: Tensor, eps: Tensor, step: int) -> Tensor:
        """Take a step given its noise prediction, without adding noise."""
        scaled: Tensor = x * float(self._x_weights[step])
        scaled.add_(eps, alpha=float(self._eps_weights[step]))
        return scaled

    def clean(self, x: Tensor, eps: Tensor, step: int) -> Tensor:
        """Give the clean latents that a noise prediction implies."""
        alpha = float(self.alphas[step])
        clean: Tensor = (x - (1 - alpha) ** 0.5 * eps) / alpha**0.5
        return clean

    def sample(
        self, predict: Predict, start: Tensor, step_noise: StepNoise, observe: Observe | None = None
    ) -> Tensor:
        """Draw latents from starting noise, in the precision of ``start``.

        Args:
            predict: Predicts the noise in latents.
            start: Standard normal noise.
            step_noise: Gives the noise of a step; not called for steps that add none.
            observe: Sees every step.
        """
        x = start
        for step in range(len(self.timesteps)):
            eps = predict(x, step)
            before, x = x, self.advance(x, eps, step)
            if self.sigmas[step] > 0:
                x.add_(step_noise(step), alpha=float(self.sigmas[step]))
            if observe is not None:
                observe(step, x, self.clean(before, eps, step))
        return x
