"""Bring images of any size to one, by a stated recipe."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rdm_batch.specs.image_resize import ImageResize

_FILTERS: Final = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def fit_image(
    image: UInt8[np.ndarray, "height width 3"], resize: ImageResize
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut and resize one image; one that has the size already stays as it is.

    The centered square of odd margins lies half a pixel up and left, as ``torchvision`` and the
    ADM suite cut it.
    """
    height, width = image.shape[:2]
    if height == width == resize.size:
        return image
    if resize.crop == "center":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    fitted = Image.fromarray(np.ascontiguousarray(image)).resize(
        (resize.size, resize.size), _FILTERS[resize.filter]
    )
    return np.asarray(fitted)
