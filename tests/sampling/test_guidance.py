from __future__ import annotations

import pytest
import torch

from rdm_batch.errors import SpecError
from rdm_batch.sampling.guidance import check_guidance_scale, guide


@pytest.mark.parametrize(("scale", "expected"), [(1.0, [3.0, 5.0]), (2.0, [5.0, 9.0])])
def test_guidance_extrapolates_from_the_second_half_to_the_first(
    scale: float, expected: list[float]
) -> None:
    branches = torch.tensor([[3.0], [5.0], [1.0], [1.0]])
    assert guide(branches, scale)[:, 0].tolist() == expected


def test_only_scales_above_one_need_the_unconditional_branch() -> None:
    assert not check_guidance_scale(1.0)
    assert check_guidance_scale(1.5)


@pytest.mark.parametrize("scale", [0.0, 0.99, -2.0, float("inf"), float("nan")])
def test_scale_below_one_is_refused(scale: float) -> None:
    with pytest.raises(SpecError, match="at least 1"):
        check_guidance_scale(scale)
