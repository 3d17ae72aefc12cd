"""Noise schedules of the diffusion process, and the times a solver visits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rdm_batch.errors import SpecError
from rdm_batch.specs.networks import NoiseScheduleConfig

TimestepRule = Literal["even", "published"]


@dataclass(frozen=True)
class NoiseSchedule:
    """Hold the forward process q(x_t | x_0) = N(sqrt(a_t) x_0, (1 - a_t) I).

    Attributes:
        betas: Variance added at every step.
        alphas_cumprod: a_t, the product of 1 - beta up to step t, rounded once from double
            precision as in the published checkpoints.
    """

    betas: Float32[np.ndarray, " steps"]
    alphas_cumprod: Float32[np.ndarray, " steps"]

    @classmethod
    def from_config(cls, config: NoiseScheduleConfig) -> NoiseSchedule:
        """Compute the process of an architecture."""
        betas = np.array(config.betas())
        return cls(
            betas=betas.astype(np.float32),
            alphas_cumprod=np.cumprod(1.0 - betas).astype(np.float32),
        )

    def __len__(self) -> int:
        return len(self.betas)

    def noise_levels(self) -> Float64[np.ndarray, " steps"]:
        """Give sigma_t = sqrt((1 - a_t) / a_t), the noise of the latents by their signal.

        The noise level of Karras et al. 2022 (arXiv:2206.00364), Table 1, for this process.
        """
        alphas = self.alphas_cumprod.astype(np.float64)
        levels: Float64[np.ndarray, " steps"] = np.sqrt((1 - alphas) / alphas)
        return levels


def first_step(timesteps: Int64[np.ndarray, " steps"], strength: float, num_times: int) -> int:
    """Choose the step at which SDEdit begins (Meng et al. 2022, arXiv:2108.01073, Algorithm 1).

    Args:
        timesteps: Times of a solver, largest first.
        strength: Where to begin, as a share of the forward process.
        num_times: Times of the forward process.

    Returns:
        The first step whose time is at most ``strength * num_times``.

    Raises:
        SpecError: There is none.
    """
    allowed = timesteps <= strength * num_times
    if not allowed.any():
        raise SpecError(
            "conditioning.edit.strength",
            f"is {strength:g}, below the last of {len(timesteps)} steps (time {timesteps[-1]} of "
            f"{num_times})",
            f"at least {timesteps[-1] / num_times:g}, or more steps",
        )
    return int(np.argmax(allowed))


def solver_timesteps(
    num_steps: int, num_train_steps: int, rule: TimestepRule = "even"
) -> Int64[np.ndarray, " steps"]:
    """Choose the times a solver visits, smallest first.

    Args:
        num_steps: Steps asked for, 1 to ``num_train_steps``.
        num_train_steps: Steps of the forward process.
        rule: ``even`` gives exactly ``num_steps`` times, floor(i T / S) + 1, and for S = T
            all of them. ``published`` is the published script's range(0, T, T // S) + 1:
            more times than asked for where S does not divide T, and none where the last one
            lies beyond the schedule. Both agree where S divides T and is smaller.

    Returns:
        Times in 0..num_train_steps - 1.

    Raises:
        SpecError: ``num_steps`` is out of range, or the published rule overruns the schedule.
    """
    if not 1 <= num_steps <= num_train_steps:
        raise SpecError("sampling.num_steps", f"{num_steps} steps", f"1 to {num_train_steps} steps")
    if rule == "published":
        times = np.arange(0, num_train_steps, num_train_steps // num_steps, dtype=np.int64) + 1
        if times[-1] >= num_train_steps:
            raise SpecError(
                "sampling.num_steps",
                f"{num_steps} steps overrun the schedule by the published timestep rule "
                f"(last time {times[-1]} of 0..{num_train_steps - 1})",
                action="use the timestep rule 'even', or a number of steps that divides "
                f"{num_train_steps} and is at most {num_train_steps // 2}",
            )
        return times
    if num_steps == num_train_steps:
        return np.arange(num_train_steps, dtype=np.int64)
    return np.arange(num_steps, dtype=np.int64) * num_train_steps // num_steps + 1
