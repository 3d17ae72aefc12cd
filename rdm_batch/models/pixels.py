"""Images as bytes and as the numbers the autoencoders work on."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_uint8(
    images: Float[Tensor, "batch channel height width"],
) -> UInt8[Tensor, "batch height width channel"]:
    """Turn images in -1..1 into bytes as the published scripts do: clamped, truncated."""
    scaled = (images.float().clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def from_uint8(
    images: UInt8[Tensor, "batch height width channel"],
) -> Float[Tensor, "batch channel height width"]:
    """Turn bytes into images in -1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
