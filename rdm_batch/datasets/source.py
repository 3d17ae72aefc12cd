"""What every collection of images looks like to the rest of the package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True, eq=False)
class ImageItem:
    """One image with what is known about it.

    Args:
        image: RGB pixels, any size.
        item_id: Name of the image, unique within its source.
        caption: A sentence about the image. None when there is none.
        url: Its address. None when there is none.
        attributes: Known facts, such as ``{"shape": "circle"}``. Empty when none are known.
    """

    image: UInt8[np.ndarray, "height width 3"]
    item_id: str
    caption: str | None = None
    url: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@runtime_checkable
class ImageSource(Protocol):
    """A finite, indexable collection of images.

    The same index always gives the same item. Indices outside ``range(len(source))``
    raise IndexError, which also makes a source iterable.
    """

    def __len__(self) -> int:
        """Count the images."""
        ...

    def __getitem__(self, index: int) -> ImageItem:
        """Return one image."""
        ...
