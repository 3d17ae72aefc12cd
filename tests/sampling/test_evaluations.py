from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.evaluations import Evaluations
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.networks import NoiseScheduleConfig

SCHEDULE = NoiseSchedule.from_config(NoiseScheduleConfig())
TIMES = DdimSolver(SCHEDULE, 10).timesteps
LEVELS = SCHEDULE.noise_levels()[TIMES]


def _planned(
    guided: bool = True, interval: tuple[float, float] | None = None, reuse: int = 1
) -> Evaluations:
    return Evaluations.planned(SCHEDULE, TIMES, guided, interval, reuse)


def test_noise_levels_are_noise_by_signal() -> None:
    alphas = SCHEDULE.alphas_cumprod.astype(np.float64)
    assert np.allclose(SCHEDULE.noise_levels() ** 2 * alphas, 1 - alphas)
    assert (np.diff(SCHEDULE.noise_levels()) > 0).all()


def test_an_interval_holds_its_upper_end_and_not_its_lower_one() -> None:
    low, high = float(LEVELS[7]), float(LEVELS[3])
    guided = _planned(interval=(low, high)).guided
    assert guided == (False,) * 3 + (True,) * 4 + (False,) * 3
    assert all(_planned(interval=(0.0, 1e6)).guided)
    assert not any(_planned(interval=(1e5, 1e6)).guided)
    assert not any(_planned(guided=False, interval=(0.0, 1e6)).guided)


@pytest.mark.parametrize("reuse", [1, 2, 3, 10, 20])
def test_the_whole_network_is_evaluated_every_nth_step(reuse: int) -> None:
    plan = _planned(reuse=reuse)
    assert plan.whole == tuple(step % reuse == 0 for step in range(10))
    assert plan.reuses == (reuse > 1)


def test_features_do_not_pass_between_one_branch_and_two() -> None:
    plan = _planned(interval=(float(LEVELS[6]), float(LEVELS[2])), reuse=3)
    assert plan.guided == (False, False, True, True, True, True, False, False, False, False)
    assert plan.whole == (True, False, True, False, False, True, True, False, False, True)


@pytest.mark.parametrize("reuse", [1, 2, 4])
@pytest.mark.parametrize("ends", [None, (9, 0), (6, 2), (6, 5), (3, 0), (9, 6)])
def test_kinds_name_every_way_once_its_features_are_there(
    reuse: int, ends: tuple[int, int] | None
) -> None:
    interval = None if ends is None else (float(LEVELS[ends[0]]), float(LEVELS[ends[1]]))
    plan = _planned(interval=interval, reuse=reuse)
    ways = set(zip(plan.guided, plan.whole, strict=True))
    left: bool | None = None
    for step in plan.kinds():
        if plan.whole[step]:
            left = plan.guided[step]
        assert left == plan.guided[step]
        ways.discard((plan.guided[step], plan.whole[step]))
    assert not ways
    assert len(plan.kinds()) <= 6
