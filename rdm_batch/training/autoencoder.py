"""Train the autoencoder under a diffusion head, without a downloaded perceptual network.

VQ: van den Oord et al. 2017 (arXiv:1711.00937), with the reconstruction loss
|x - x'| + (x - x')^2 averaged over pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from rdm_batch.models.autoencoder import VqAutoencoder
from rdm_batch.specs.architecture import VqAutoencoderConfig
from rdm_batch.training.images import TrainingImages

_REVIVAL_IMAGES = 512


class VqObjective:
    """Reconstruct images through a codebook.

    The first steps leave the quantization out, so that the latents spread before code words
    are placed among them. Afterwards, and every ``revive_every`` steps until
    ``revive_until``, code words no image uses are moved to latents drawn at random: without
    this most of a codebook never comes into use.

    Args:
        images: The training set.
        config: Sizes of the autoencoder.
        quantize_from: First step with quantization.
        revive_every: Steps between moves of unused code words.
        revive_until: Last step at which code words are moved.
        freeze_encoder_from: Step from which the encoder stays as it is, so that heads can
            train on its latents while codebook and decoder improve. None means never.
    """

    def __init__(
        self,
        images: TrainingImages,
        config: VqAutoencoderConfig,
        quantize_from: int,
        revive_every: int,
        revive_until: int,
        freeze_encoder_from: int | None = None,
    ) -> None:
        self.images = images
        self.network: VqAutoencoder = VqAutoencoder(config)
        self.quantize_from = quantize_from
        self.revive_every = revive_every
        self.revive_until = revive_until
        self.freeze_encoder_from = math.inf if freeze_encoder_from is None else freeze_encoder_from

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute reconstruction and codebook loss of one batch."""
        if self._revives(step):
            self._revive(generator)
        pixels = self.images.batch(rows)
        with torch.set_grad_enabled(step < self.freeze_encoder_from):
            latents = self.network.encode(pixels)
        codebook_loss = latents.new_zeros(())
        if step >= self.quantize_from:
            quantized = self.network.quantize(latents)
            latents, codebook_loss = quantized.latents, quantized.loss
        decoded = self.network.decode_quantized(latents).float()
        return F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels) + codebook_loss

    def _revives(self, step: int) -> bool:
        since = step - self.quantize_from
        return step <= self.revive_until and since >= 0 and since % self.revive_every == 0

    @torch.no_grad()
    def _revive(self, generator: torch.Generator) -> None:
        rows = torch.randint(len(self.images), (_REVIVAL_IMAGES,), generator=generator)
        latents = torch.cat(
            [self.network.encode(self.images.batch(part)).float() for part in torch.split(rows, 64)]
        )
        words = self.network.quantize.embedding.weight
        used = self.network.quantize.nearest(latents).flatten().bincount(minlength=len(words))
        points = latents.movedim(1, -1).flatten(0, 2)
        chosen = torch.randint(len(points), (len(words),), generator=generator)
        words.copy_(torch.where(used[:, None] > 0, words, points[chosen].to(words.dtype)))
