"""Train a small image and text encoder with open_clip's contrastive loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from rdm_batch.errors import SpecError
from rdm_batch.models.clip import WordTokenizer, build_clip, pixels_to_clip
from rdm_batch.specs.clip import ClipArchitecture
from rdm_batch.training.device import on_device_of
from rdm_batch.training.images import TrainingImages

_CALIBRATION_IMAGES = 2_048


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


class ClipObjective:
    """Match images with their captions (Radford et al. 2021, arXiv:2103.00020).

    Args:
        images: The training set; every image needs a caption.
        architecture: Sizes and vocabulary of the encoder.
        max_logit_scale: Bound on the factor of the cosines. A lower bound keeps images and
            their captions closer together, which heads conditioned on texts profit from.

    Raises:
        SpecError: If an image has no caption, or a caption an unknown word.
    """

    def __init__(
        self, images: TrainingImages, architecture: ClipArchitecture, max_logit_scale: float
    ) -> None:
        from open_clip import ClipLoss

        self.images = images
        self._tokens = tokenize_captions(images, architecture)
        self.network: nn.Module = build_clip(architecture)
        self._contrast = ClipLoss()
        self._max_log_scale = math.log(max_logit_scale)

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute the contrastive loss among the images and captions of one batch."""
        network: nn.Module = self.network
        with torch.no_grad():
            network.get_parameter("logit_scale").clamp_(max=self._max_log_scale)
        pixels = pixels_to_clip(self.images.pixels[rows])
        image, text, scale = network(*on_device_of(network, pixels, self._tokens[rows]))
        loss: Tensor = self._contrast(image.float(), text.float(), scale)
        return loss

    @torch.no_grad()
    def calibrate(self, network: nn.Module) -> None:
        """Scale both towers so that embeddings have a root mean square of one per component.

        Cosines, and with them training and retrieval, do not see the length of an
        embedding. Heads do: they read images and texts unnormalized, through the same
        layers, so both should come in one length.

        Args:
            network: An encoder of this objective's architecture; changed in place.
        """
        chosen = torch.arange(min(len(self.images), _CALIBRATION_IMAGES))
        towers: Any = network
        image = towers.encode_image(pixels_to_clip(self.images.pixels[chosen]))
        text = towers.encode_text(self._tokens[chosen])
        last = towers.visual.attnpool.c_proj
        for parameter in (last.weight, last.bias):
            parameter.div_(image.square().mean().sqrt())
        towers.text_projection.div_(text.square().mean().sqrt())
