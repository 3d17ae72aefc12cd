from __future__ import annotations

import numpy as np

from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.networks import NoiseScheduleConfig
from tests.compare import relative_error
from tests.tolerances import SCHEDULE_REL


def test_noise_schedule_is_the_published_one(rdm_oracle: dict[str, np.ndarray]) -> None:
    schedule = NoiseSchedule.from_config(NoiseScheduleConfig())
    assert relative_error(schedule.betas, rdm_oracle["betas"]) <= SCHEDULE_REL
    assert relative_error(schedule.alphas_cumprod, rdm_oracle["alphas_cumprod"]) <= SCHEDULE_REL
