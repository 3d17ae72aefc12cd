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


class TrainedEditSpec(Spec):
    """Show the picture to a head that was trained to keep of it what the instruction leaves alone.

    KNN-Diffusion (Sheynin et al. 2023, arXiv:2204.02849): no mask says what is to change.
    """

    method: Literal["trained"] = Field(
        description="Give the picture to a head that `rdm-batch train knn_edit` made, which draws "
        "from noise and sees the picture at every step (Sheynin et al. 2023, arXiv:2204.02849)."
    )


EditSpec = Annotated[SdeditSpec | TrainedEditSpec, Field(discriminator="method")]
"""How a head makes a given picture into another."""
