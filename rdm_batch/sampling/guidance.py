"""Guidance: away from predictions without a condition, or from those of a weaker network.

Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598) and autoguidance (Karras et al.
2024, arXiv:2406.02507) are the same extrapolation.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from rdm_batch.errors import SpecError


def check_guidance_scale(scale: float) -> bool:
    """Say whether a scale needs the unconditional branch at all.

    Returns:
        False for 1, the conditional prediction alone; True above.

    Raises:
        SpecError: The scale is below 1 or not a finite number.
    """
    if not 1 <= scale < float("inf"):
        raise SpecError("sampling.guidance_scale", f"{scale}", "a finite number, at least 1")
    return scale > 1


def guide(branches: Float[Tensor, " rows *rest"], scale: float) -> Float[Tensor, " samples *rest"]:
    """Extrapolate from unconditional to conditional predictions.

    Args:
        branches: The conditional predictions of all samples, then the unconditional ones.
        scale: s in e_uncond + s (e_cond - e_uncond); 1 would give the conditional ones back.
    """
    conditional, unconditional = branches.chunk(2)
    return unconditional.lerp(conditional, scale)


def guide_away(
    better: Float[Tensor, " samples *rest"], weaker: Float[Tensor, " samples *rest"], scale: float
) -> Float[Tensor, " samples *rest"]:
    """Extrapolate from the predictions of a weaker network to those of a better one.

    Args:
        better: In float32, as is the result.
        weaker: In any type.
        scale: s in e_weaker + s (e_better - e_weaker); 1 would give the better ones back.
    """
    return weaker.float().lerp(better, scale)
