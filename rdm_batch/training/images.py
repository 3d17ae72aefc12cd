"""Hold a training set in memory, and bring batches of it to the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor, nn

from rdm_batch.backends import multiplying
from rdm_batch.datasets.source import ImageSource
from rdm_batch.errors import SpecError
from rdm_batch.inputs.images import open_images
from rdm_batch.models.clip import WordTokenizer
from rdm_batch.models.pixels import from_uint8
from rdm_batch.specs.networks import ClipArchitecture

_ENCODED_AT_ONCE = 256


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
        return from_uint8(self.pixels[rows])


def load_images(location: str, image_size: int) -> TrainingImages:
    """Read a training set into memory.

    Raises:
        ImageError: Nothing usable is there.
        SpecError: The shapes are not described correctly.
    """
    return TrainingImages.load(open_images(location)[0], image_size)


def on_device_of(network: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Move tensors to where a network computes.

    Data and chance stay on the CPU until then, the same for every device.
    """
    device = next(network.parameters()).device
    return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)


@torch.no_grad()
def encoded(
    encode: Callable[[Tensor], Tensor], network: nn.Module, images: TrainingImages
) -> Shaped[Tensor, " image *rest"]:
    """Encode a training set once, where a network computes; results come back to the CPU.

    Args:
        encode: Maps images as numbers from -1 to 1.
        network: What ``encode`` computes with.
        images: The training set.
    """
    parts = torch.split(torch.arange(len(images)), _ENCODED_AT_ONCE)
    # In IEEE float32: heads draw latents as an encoder of any device would make them.
    with multiplying():
        done = [encode(*on_device_of(network, images.batch(part))).cpu() for part in parts]
    return torch.cat(done)


def tokenize_captions(
    images: TrainingImages, architecture: ClipArchitecture
) -> Int64[Tensor, "image token"]:
    """Turn the captions of a training set into token numbers.

    Raises:
        SpecError: If an image has no caption, or a caption a word the encoder does not know.
    """
    captions = [caption for caption in images.captions if caption is not None]
    if len(captions) < len(images):
        missing = len(images) - len(captions)
        raise SpecError("training images", f"{missing:,} of {len(images):,} have no caption")
    return WordTokenizer(architecture.vocabulary, architecture.context_length)(captions)


def _fit(image: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    height, width = image.shape[:2]
    if height == width == size:
        return image
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(resized)
