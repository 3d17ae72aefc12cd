"""Decode a batch in parts that fit in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# Pixels decoded at once: 32 images of 256 x 256. The decoder's activations are the largest
# of a batch: 32 MiB an image of that size, in float32 with 128 channels.
_PIXELS_AT_ONCE = 2**21


def decode_in_parts(
    decode: Callable[[Tensor], Tensor], latents: Tensor, image_size: int
) -> Float[Tensor, "batch channel height width"]:
    """Apply a decoder to as many rows at once as memory allows.

    Args:
        decode: Maps rows of latents or codes to images.
        latents: What to decode.
        image_size: Side length of the images, pixels.

    Returns:
        Images in float32.
    """
    rows = max(1, _PIXELS_AT_ONCE // image_size**2)
    parts = torch.split(latents, rows)
    return torch.cat([decode(part).float() for part in parts])
