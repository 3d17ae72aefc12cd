"""From latents to images: in parts that fit in memory, and never from numbers gone wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rdm_batch.errors import CheckpointError
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.precisions import Precision

# Pixels decoded at once: 32 images of 256 x 256. The decoder's activations are the largest
# of a batch: 32 MiB an image of that size, in float32 with 128 channels.
_PIXELS_AT_ONCE = 2**21
# A CPU gains nothing from more than one of them, and its caches hold more of one.
_PIXELS_AT_ONCE_ON_CPU = 2**16


def decode_in_parts(
    decode: Callable[[Tensor], Tensor], latents: Tensor, image_size: int, even: bool = False
) -> Float[Tensor, "batch channel height width"]:
    """Apply a decoder to as many rows at once as memory allows, and caches.

    Args:
        decode: Maps rows of latents or codes to images.
        latents: What to decode.
        image_size: Side length of the images, pixels.
        even: Whether all parts have one shape, as a compiled decoder needs: the last is then
            filled up, and what was added is dropped.

    Returns:
        Images in float32, in memory of their own.
    """
    pixels = _PIXELS_AT_ONCE_ON_CPU if latents.device.type == "cpu" else _PIXELS_AT_ONCE
    rows = max(1, pixels // image_size**2)
    count = len(latents)
    if even:
        rows = -(-count // -(-count // rows))
        missing = -count % rows
        latents = torch.cat([latents, latents[:1].expand(missing, *latents.shape[1:])])
    # What a recorded graph returns is overwritten by its next call.
    parts = [decode(part).to(torch.float32, copy=even) for part in torch.split(latents, rows)]
    return torch.cat(parts)[:count]


def not_finite(
    failed: Bool[Tensor, " batch"], what: str, noise: SampleNoise, precision: Precision
) -> CheckpointError:
    """Describe samples whose numbers became infinite or NaN.

    Args:
        failed: Which samples of the batch, at least one.
        what: What is not finite, and since when.
        noise: The samples.
        precision: Arithmetic of the networks.
    """
    first = int(noise.sample_indices[int(failed.int().argmax())])
    return CheckpointError(
        f"sample {first}",
        f"its {what} in {precision} ({int(failed.sum())} of {len(failed)} samples of the batch)",
        action="use precision float32, a lower guidance_scale, or other weights",
    )
