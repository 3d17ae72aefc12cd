"""Train a small image and text encoder with open_clip's contrastive loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rdm_batch.errors import CheckpointError
from rdm_batch.models.clip import build_clip, collect_vocabulary, pixels_to_clip, save_clip
from rdm_batch.specs.networks import ClipArchitecture
from rdm_batch.specs.training import ClipTraining
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.images import (
    TrainingImages,
    load_images,
    on_device_of,
    tokenize_captions,
)
from rdm_batch.training.loop import Compile, run_training
from rdm_batch.training.text_tower import train_text_tower
from rdm_batch.training.weights import WEIGHTS_NAME

_CALIBRATION_IMAGES = 2_048


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
        self._compute = self._contrasted

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute the contrastive loss among the images and captions of one batch."""
        network: nn.Module = self.network
        with torch.no_grad():
            network.get_parameter("logit_scale").clamp_(max=self._max_log_scale)
        pixels = pixels_to_clip(self.images.pixels[rows])
        return self._compute(*on_device_of(network, pixels, self._tokens[rows]))

    def compile(self, compiled: Compile) -> None:
        """Compile both towers and the contrast; see ``Objective``."""
        self._compute = compiled(self._contrasted)

    def _contrasted(
        self, pixels: Float[Tensor, "batch 3 height width"], tokens: Int64[Tensor, "batch token"]
    ) -> Float[Tensor, ""]:
        image, text, scale = self.network(pixels, tokens)
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


def train_clip(spec: ClipTraining, out: Path, resume: bool) -> Path:
    """Train an encoder anew, or the text tower of one, and write it.

    Returns:
        The weights file.
    """
    if spec.image_tower is not None:
        return train_text_tower(
            spec, local_path(spec.image_tower, error=CheckpointError), out, resume
        )
    images = load_images(spec.images, spec.sizes.image_size)
    torch.manual_seed(spec.optimization.seed)
    architecture = ClipArchitecture(
        **spec.sizes.model_dump(),
        name=spec.name,
        vocabulary=collect_vocabulary(caption for caption in images.captions if caption),
    )
    objective = ClipObjective(images, architecture, spec.max_logit_scale)
    network = run_training(objective, len(images), spec.optimization, out, resume)
    objective.calibrate(network)
    save_clip(network, architecture, out / WEIGHTS_NAME)
    return out / WEIGHTS_NAME
