"""What every solver of the reverse process offers, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from torch import Tensor

Predict = Callable[[Tensor, int], Tensor]
"""Predict the noise in latents at the solver's ``timesteps[i]``, given latents and i."""

StepNoise = Callable[[int], Tensor]
"""Give the standard normal noise that step i (from 0) adds; it may be overwritten two calls on."""

Observe = Callable[[int, Tensor, Tensor], None]
"""See, after step i, the latents and the clean latents the step predicted."""


@runtime_checkable
class Solver(Protocol):
    """Turn noise into latents in a fixed number of steps.

    Attributes:
        timesteps: Times at which the network is evaluated, in the order of sampling.
    """

    timesteps: Int64[np.ndarray, " steps"]

    def sample(
        self, predict: Predict, start: Tensor, step_noise: StepNoise, observe: Observe | None = None
    ) -> Tensor:
        """Draw latents from starting noise; everything random comes from the arguments."""
        ...

    def later(self, first: int) -> Solver:
        """Give the solver of the steps from ``first`` on, which then count from 0.

        It starts from latents with the noise of its first time.
        """
        ...
