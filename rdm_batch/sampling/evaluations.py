"""How much of the network each step of a solver evaluates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from rdm_batch.sampling.schedules import NoiseSchedule


@dataclass(frozen=True)
class Evaluations:
    """Say what of the network is evaluated at every step of a solver.

    Attributes:
        guided: Whether the step's prediction is guided.
        whole: Whether the whole network is evaluated, rather than its shallow blocks around deep
            features that the last whole evaluation left.
    """

    guided: tuple[bool, ...]
    whole: tuple[bool, ...]

    @classmethod
    def everywhere(cls, num_steps: int, guided: bool) -> Evaluations:
        """Evaluate all of the network at every step."""
        return cls((guided,) * num_steps, (True,) * num_steps)

    @classmethod
    def planned(
        cls,
        schedule: NoiseSchedule,
        timesteps: Int64[np.ndarray, " steps"],
        guided: bool,
        interval: tuple[float, float] | None,
        reuse: int,
    ) -> Evaluations:
        """Plan the evaluations of a job.

        Args:
            schedule: The forward process.
            timesteps: Times of the solver, in the order of sampling.
            guided: Whether there is guidance at all.
            interval: Noise levels (see ``NoiseSchedule.noise_levels``) between which steps are
                guided, the upper one included; None guides all. Kynkäänniemi et al. 2024
                (arXiv:2404.07724), Eq. 5.
            reuse: Steps from one evaluation of the whole network to the next. Ma et al. 2023
                (arXiv:2312.00858), Sec. 3.3, with N of these steps.
        """
        levels = schedule.noise_levels()[timesteps]
        low, high = interval if interval is not None else (-np.inf, np.inf)
        inside = (guided and bool(low < level <= high) for level in levels)
        guided_steps = tuple(inside)
        whole: list[bool] = []
        since = 0
        for step, is_guided in enumerate(guided_steps):
            # Features of one branch are of no use to two, nor the other way around.
            changes = step > 0 and is_guided != guided_steps[step - 1]
            since = 0 if step == 0 or changes or since + 1 == reuse else since + 1
            whole.append(since == 0)
        return cls(guided_steps, tuple(whole))

    @property
    def reuses(self) -> bool:
        """Tell whether any step takes deep features of an earlier one."""
        return not all(self.whole)

    def kinds(self) -> tuple[int, ...]:
        """Give steps that together evaluate the network in every way there is, in order.

        Steps that take deep features follow the ones that leave them.
        """
        chosen: set[int] = set()
        seen: set[tuple[bool, bool]] = set()
        left_at = 0
        for step, kind in enumerate(zip(self.guided, self.whole, strict=True)):
            left_at = step if kind[1] else left_at
            if kind not in seen:
                seen.add(kind)
                chosen |= {left_at, step}
        return tuple(sorted(chosen))
