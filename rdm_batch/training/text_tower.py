"""Train an encoder's text tower on, with the image tower and its embeddings as they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from rdm_batch.backends import multiplying
from rdm_batch.models.clip import load_clip, pixels_to_clip, save_clip
from rdm_batch.specs.networks import ClipArchitecture
from rdm_batch.specs.training import ClipTraining
from rdm_batch.training.images import (
    TrainingImages,
    load_images,
    on_device_of,
    tokenize_captions,
)
from rdm_batch.training.loop import Compile, run_training
from rdm_batch.training.weights import WEIGHTS_NAME

_BATCH = 500


class TextTowerObjective:
    """Bring the embeddings of captions to those of their images.

    A contrastive loss leaves images and texts in regions of their own (the "modality gap",
    Liang et al. 2022, arXiv:2203.02053). Search does not mind, as only the order of cosines
    counts; a head that has learned from embeddings of images and is given one of a text does.
    Keeping the image tower (as Zhai et al. 2022, arXiv:2111.07991, do) keeps all embeddings
    of images, and every head that has learned from them.

    Args:
        images: The training set; every image needs a caption.
        network: Encoder to go on from; only its text tower is changed.
        architecture: The encoder's sizes and vocabulary.
        max_logit_scale: Bound on the factor of the cosines in the contrastive loss.
        alignment_weight: Factor of the mean squared distance between the embeddings of an
            image and its caption. The least distance is at the mean embedding of all images
            that a caption fits.

    Raises:
        SpecError: If an image has no caption, or a caption an unknown word.
    """

    def __init__(
        self,
        images: TrainingImages,
        network: nn.Module,
        architecture: ClipArchitecture,
        max_logit_scale: float,
        alignment_weight: float,
    ) -> None:
        from open_clip import ClipLoss

        self.network = network
        self._towers: Any = network  # with open_clip's methods, which nn.Module does not declare
        self._towers.visual.requires_grad_(False)
        self._tokens = tokenize_captions(images, architecture)
        self._embeddings = _embed(images, self._towers.eval())
        self._contrast = ClipLoss()
        self._max_log_scale = math.log(max_logit_scale)
        self._alignment_weight = alignment_weight
        self._compute = self._compared

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute the contrastive loss of one batch, plus the distances of its pairs."""
        with torch.no_grad():
            self._towers.logit_scale.clamp_(max=self._max_log_scale)
        batch = on_device_of(self.network, self._tokens[rows], self._embeddings[rows])
        return self._compute(*batch)

    def compile(self, compiled: Compile) -> None:
        """Compile the text tower, the contrast and the distances; see ``Objective``."""
        self._compute = compiled(self._compared)

    def _compared(
        self, tokens: Int64[Tensor, "batch token"], image: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, ""]:
        text = self._towers.encode_text(tokens).float()
        contrast: Tensor = self._contrast(
            normalize(image, dim=-1), normalize(text, dim=-1), self._towers.logit_scale.exp()
        )
        return contrast + self._alignment_weight * mse_loss(text, image)


def train_text_tower(spec: ClipTraining, image_tower: Path, out: Path, resume: bool) -> Path:
    """Train the text tower of an encoder on, and write the whole encoder.

    Returns:
        The weights file.
    """
    network, architecture = load_clip(image_tower)
    network.to(spec.optimization.device)
    architecture = architecture.model_copy(update={"name": spec.name})
    images = load_images(spec.images, architecture.image_size)
    objective = TextTowerObjective(
        images, network, architecture, spec.max_logit_scale, spec.alignment_weight
    )
    network = run_training(objective, len(images), spec.optimization, out, resume)
    save_clip(network, architecture, out / WEIGHTS_NAME)
    return out / WEIGHTS_NAME


@torch.no_grad()
def _embed(images: TrainingImages, towers: Any) -> Float[Tensor, "image dim"]:
    starts = range(0, len(images), _BATCH)
    pixels = (pixels_to_clip(images.pixels[start : start + _BATCH]) for start in starts)
    with multiplying():
        parts = [towers.encode_image(*on_device_of(towers, part)).float().cpu() for part in pixels]
    return torch.cat(parts)
