"""The DPM-Solver++ (2M) solver (Lu et al. 2022, arXiv:2211.01095)."""

from __future__ import annotations

import copy

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from rdm_batch.sampling.schedules import NoiseSchedule, TimestepRule, solver_timesteps
from rdm_batch.sampling.solver import Observe, Predict, StepNoise

# Below this many steps the last one is taken at first order, as the authors' implementation
# does: extrapolating over the long last step in log-SNR is unstable.
_FEW_STEPS = 15


class DpmSolver:
    """Draw latents with DPM-Solver++ (2M) (Lu et al. 2022, arXiv:2211.01095, Algorithm 2).

    A multistep method of second order in the predicted clean latents; deterministic.

    Args:
        schedule: The forward process the network was trained on.
        num_steps: Number of steps, one evaluation each.
        rule: ``even`` spaces the steps evenly in log-SNR (Lu et al. 2022, arXiv:2206.00927,
            Sec. 3.4), from the last time of the schedule to the first; ``published`` takes the
            times of the published DDIM script, and ends at the first.

    Attributes:
        timesteps: Times of the evaluations in the order of sampling, largest first.

    Raises:
        SpecError: ``num_steps`` is out of range.
    """

    def __init__(
        self, schedule: NoiseSchedule, num_steps: int, rule: TimestepRule = "even"
    ) -> None:
        nodes = _nodes(schedule, num_steps, rule)
        self.timesteps = nodes[:-1]
        alphas_cumprod = schedule.alphas_cumprod.astype(np.float64)[nodes]
        self._alphas = np.sqrt(alphas_cumprod)
        self._sigmas = np.sqrt(1 - alphas_cumprod)
        self._log_snrs = np.log(self._alphas) - np.log(self._sigmas)

    def later(self, first: int) -> DpmSolver:
        """Give the solver of the later steps; the first is of first order. See ``Solver``."""
        rest = copy.copy(self)
        for name in ("timesteps", "_alphas", "_sigmas", "_log_snrs"):
            setattr(rest, name, getattr(self, name)[first:])
        return rest

    def sample(
        self, predict: Predict, start: Tensor, step_noise: StepNoise, observe: Observe | None = None
    ) -> Tensor:
        """Draw latents from starting noise; no step adds noise."""
        widths = np.diff(self._log_snrs)
        num_steps = len(self.timesteps)
        x, last_clean = start, start
        for step in range(num_steps):
            eps = predict(x, step)
            clean = (x - float(self._sigmas[step]) * eps) / float(self._alphas[step])
            is_first_order = step == 0 or (step == num_steps - 1 and num_steps < _FEW_STEPS)
            if is_first_order:
                direction = clean
            else:
                slope = float(widths[step] / (2 * widths[step - 1]))
                direction = clean * (1 + slope) - last_clean * slope
            x = x * float(self._sigmas[step + 1] / self._sigmas[step])
            x.add_(direction, alpha=float(-self._alphas[step + 1] * np.expm1(-widths[step])))
            last_clean = clean
            if observe is not None:
                observe(step, x, clean)
        return x


def _nodes(schedule: NoiseSchedule, num_steps: int, rule: TimestepRule) -> Int64[np.ndarray, " _"]:
    """Give the times at which steps begin, largest first, and the time the last one ends at."""
    last = len(schedule) - 1
    times = solver_timesteps(num_steps, len(schedule), rule)
    if rule == "published" or num_steps > last:
        return np.concatenate([times[::-1], [0]])
    alphas_cumprod = schedule.alphas_cumprod.astype(np.float64)
    log_snrs = np.log(alphas_cumprod / (1 - alphas_cumprod))
    targets = np.linspace(log_snrs[0], log_snrs[-1], num_steps + 1)
    nodes = np.abs(log_snrs - targets[:, None]).argmin(axis=1)
    # Where the schedule is coarser than the steps, several targets meet in one time: move them
    # apart, first away from the clean end and then back from the noisy one.
    steps = np.arange(num_steps + 1)
    nodes = np.maximum.accumulate(nodes - steps) + steps
    nodes = np.minimum(nodes, last - steps[::-1])
    falling: Int64[np.ndarray, " _"] = nodes[::-1].astype(np.int64)
    return falling
