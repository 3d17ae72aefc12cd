"""Hold a training set in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from rdm_batch.datasets.source import ImageSource


@dataclass(frozen=True)
class TrainingImages:
    """Images of one size, and their captions.

    Args:
        pixels: The images.
        captions: One caption per image; None where there is none.
    """

    pixels: UInt8[Tensor, "image height width 3"]
    captions: tuple[str | None, ...]

    @classmethod
    def load(cls, source: ImageSource, image_size: int) -> TrainingImages:
        """Read a whole source.

        Args:
            source: Where the images come from.
            image_size: Side of the images wanted, in pixels. Others are cut to a centered
                square and resized (Lanczos).
        """
        items = [source[index] for index in range(len(source))]
        pixels = np.stack([_fit(item.image, image_size) for item in items])
        return cls(torch.from_numpy(pixels), tuple(item.caption for item in items))

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, rows: Int64[Tensor, " batch"]) -> Float[Tensor, "batch 3 height width"]:
        """Return some images as numbers from -1 to 1."""
        return self.pixels[rows].permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _fit(image: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    height, width = image.shape[:2]
    if height == width == size:
        return image
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(resized)
