"""The PLMS solver (Liu et al. 2022, arXiv:2202.09778)."""

from __future__ import annotations

import copy

from torch import Tensor

from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.schedules import NoiseSchedule, TimestepRule
from rdm_batch.sampling.solver import Observe, Predict, StepNoise

# Adams-Bashforth weights of the newest prediction and those before it, for one to four of
# them (Liu et al. 2022, Eq. 12); with one, the first step corrects itself instead.
_WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class PlmsSolver:
    """Draw latents with the pseudo linear multistep method (Liu et al. 2022, Algorithm 2).

    As in the published scripts the first step is a pseudo improved Euler step, which costs
    one more evaluation, rather than three Runge-Kutta steps; times and noise levels are
    those of ``DdimSolver`` with eta 0.

    Args:
        schedule: The forward process the network was trained on.
        num_steps: Number of steps; the network is evaluated once more.
        rule: How times are chosen; see ``schedules.solver_timesteps``.

    Attributes:
        timesteps: Times in the order of sampling, largest first.

    Raises:
        SpecError: ``num_steps`` is out of range.
    """

    def __init__(
        self, schedule: NoiseSchedule, num_steps: int, rule: TimestepRule = "even"
    ) -> None:
        self._steps = DdimSolver(schedule, num_steps, eta=0.0, rule=rule)
        self.timesteps = self._steps.timesteps

    def later(self, first: int) -> PlmsSolver:
        """Give the solver of the later steps; the first corrects itself. See ``Solver``."""
        rest = copy.copy(self)
        rest._steps = self._steps.later(first)
        rest.timesteps = rest._steps.timesteps
        return rest

    def sample(
        self, predict: Predict, start: Tensor, step_noise: StepNoise, observe: Observe | None = None
    ) -> Tensor:
        """Draw latents from starting noise; no step adds noise."""
        x = start
        earlier: list[Tensor] = []
        for step in range(len(self.timesteps)):
            eps = predict(x, step)
            if step == 0:
                ahead = self._steps.advance(x, eps, step)
                following = predict(ahead, min(1, len(self.timesteps) - 1))
                combined = (eps + following) / 2
            else:
                weights = _WEIGHTS[len(earlier)]
                combined = eps * weights[0]
                for weight, past in zip(weights[1:], earlier, strict=True):
                    combined.add_(past, alpha=weight)
            earlier = [eps, *earlier[: len(_WEIGHTS) - 2]]
            before, x = x, self._steps.advance(x, combined, step)
            if observe is not None:
                observe(step, x, self._steps.clean(before, combined, step))
        return x
