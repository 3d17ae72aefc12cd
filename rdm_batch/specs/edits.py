"""How a head makes a given picture into another: the ``edit`` of conditioning mode ``edit``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rdm_batch.specs.base import Spec


class SdeditSpec(Spec):
    """Noise the picture part of the way, and denoise it with the instruction's conditioning.

    SDEdit (Meng et al. 2022, arXiv:2108.01073, Algorithm 1), in the latents of the head. It needs
    no weights of its own.
    """

    method: Literal["sdedit"] = Field(
        description="Noise the picture's latents to `strength` and denoise them from there (Meng "
        "et al. 2022, arXiv:2108.01073). Any diffusion head over latents."
    )
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        default=0.5,
        description="Where denoising begins, as a share of the times of the forward process: of "
        "the sampler's `num_steps`, those at or below it are taken. Small values keep more of the "
        "picture, 1 nearly nothing.",
    )


EditSpec = SdeditSpec
