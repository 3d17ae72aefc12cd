"""Named ways to bring images to the size a feature network sees.

Which one is used moves FID by more than most models differ, so it is part of every
extractor's description.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor

from rdm_batch.errors import MetricError
from rdm_batch.transfers import upload

TENSORFLOW_BILINEAR: Final = "tensorflow-bilinear"
CLEAN_BICUBIC: Final = "clean-bicubic"


def resize(
    images: UInt8[np.ndarray, "n height width 3"], size: int, name: str, device: str = "cpu"
) -> Float32[Tensor, "n 3 size size"]:
    """Resize images to squares, without rounding back to bytes.

    Args:
        images: RGB images of one size.
        size: Side of the result, in pixels.
        name: ``tensorflow-bilinear`` (TensorFlow 1, as FID was first computed: no antialiasing,
            corners at the origin) or ``clean-bicubic`` (antialiased bicubic of Parmar et al.
            2022, arXiv:2104.11222).
        device: Where to compute.

    Returns:
        Values on the scale of the bytes; bicubic ones may leave 0..255.

    Raises:
        MetricError: There is no such resize.
    """
    if name not in _RESIZES:
        raise MetricError("resize", f"{name!r} is not known", f"one of {', '.join(_RESIZES)}")
    pixels = upload(np.ascontiguousarray(images), device)
    return _RESIZES[name](pixels.permute(0, 3, 1, 2).float(), size)


def _tensorflow_bilinear(
    pixels: Float32[Tensor, "n 3 height width"], size: int
) -> Float32[Tensor, "n 3 size size"]:
    """Interpolate columns, then rows, as ``resize_bilinear`` of TensorFlow 1 does."""
    low, high, weight = _neighbors(pixels.shape[3], size, pixels.device)
    left = pixels[..., low]
    rows = left + (pixels[..., high] - left) * weight
    low, high, weight = _neighbors(pixels.shape[2], size, pixels.device)
    top = rows[:, :, low]
    return top + (rows[:, :, high] - top) * weight[:, None]


@lru_cache(maxsize=16)
def _neighbors(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    # Kept by sizes and device: a copy to a GPU waits for it.
    place = torch.arange(size, dtype=torch.float32, device=device)
    place = place * torch.full((), length / size, dtype=torch.float32, device=device)
    low = place.long()
    return low, (low + 1).clamp_max(length - 1), place - low


def _clean_bicubic(
    pixels: Float32[Tensor, "n 3 height width"], size: int
) -> Float32[Tensor, "n 3 size size"]:
    return F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)


_RESIZES: Final[dict[str, Callable[[Tensor, int], Tensor]]] = {
    TENSORFLOW_BILINEAR: _tensorflow_bilinear,
    CLEAN_BICUBIC: _clean_bicubic,
}
RESIZE_NAMES: Final = tuple(_RESIZES)
