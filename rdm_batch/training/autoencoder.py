"""Train the autoencoder under a head, without a downloaded perceptual network.

VQ: van den Oord et al. 2017 (arXiv:1711.00937). KL: Rombach et al. 2022 (arXiv:2112.10752).
Both with the reconstruction loss |x - x'| + (x - x')^2 averaged over pixels.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder
from rdm_batch.models.pixels import to_uint8
from rdm_batch.specs.networks import KlAutoencoderConfig, VqAutoencoderConfig
from rdm_batch.specs.training import AutoencoderTraining
from rdm_batch.training.images import TrainingImages, load_images, on_device_of
from rdm_batch.training.loop import Compile, run_training
from rdm_batch.training.pictures import NUM_PREVIEWED, alternate, save_grid
from rdm_batch.training.weights import WEIGHTS_NAME, save_autoencoder

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
        self._compute = self._losses

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute reconstruction and codebook loss of one batch."""
        if self._revives(step):
            self._revive(generator)
        (pixels,) = on_device_of(self.network, self.images.batch(rows))
        frozen, quantizes = step >= self.freeze_encoder_from, step >= self.quantize_from
        return self._compute(pixels, frozen, quantizes)

    def compile(self, compiled: Compile) -> None:
        """Compile the autoencoder and its losses, once for each phase; see ``Objective``."""
        self._compute = compiled(self._losses)

    def _losses(
        self, pixels: Float[Tensor, "batch 3 height width"], frozen: bool, quantizes: bool
    ) -> Float[Tensor, ""]:
        with torch.set_grad_enabled(not frozen):
            latents = self.network.encode(pixels)
        codebook_loss = latents.new_zeros(())
        if quantizes:
            quantized = self.network.quantize(latents)
            latents, codebook_loss = quantized.latents, quantized.loss
        return _distance(self.network.decode_quantized(latents), pixels) + codebook_loss

    def _revives(self, step: int) -> bool:
        since = step - self.quantize_from
        return step <= self.revive_until and since >= 0 and since % self.revive_every == 0

    @torch.no_grad()
    def _revive(self, generator: torch.Generator) -> None:
        rows = torch.randint(len(self.images), (_REVIVAL_IMAGES,), generator=generator)
        parts = (self.images.batch(part) for part in torch.split(rows, 64))
        latents = torch.cat(
            [self.network.encode(*on_device_of(self.network, part)).float() for part in parts]
        )
        words = self.network.quantize.embedding.weight
        used = self.network.quantize.nearest(latents).flatten().bincount(minlength=len(words))
        points = latents.movedim(1, -1).flatten(0, 2)
        chosen = torch.randint(len(points), (len(words),), generator=generator).to(points.device)
        words.copy_(torch.where(used[:, None] > 0, words, points[chosen].to(words.dtype)))


class KlObjective:
    """Reconstruct images from latents drawn around their means.

    Args:
        images: The training set.
        config: Sizes of the autoencoder.
        kl_weight: Factor of the divergence of the latents from a standard Gaussian (in nats,
            averaged over latent numbers) beside the reconstruction loss.
    """

    def __init__(
        self, images: TrainingImages, config: KlAutoencoderConfig, kl_weight: float
    ) -> None:
        self.images = images
        self.network: KlAutoencoder = KlAutoencoder(config)
        self._kl_weight = kl_weight
        self._compute = self._losses

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute reconstruction loss and divergence of one batch."""
        pixels = self.images.batch(rows)
        config = self.network.config
        size = config.resolution // config.downsampling
        noise = torch.randn((len(rows), config.embed_dim, size, size), generator=generator)
        return self._compute(*on_device_of(self.network, pixels, noise))

    def compile(self, compiled: Compile) -> None:
        """Compile the autoencoder and its losses; see ``Objective``."""
        self._compute = compiled(self._losses)

    def _losses(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        noise: Float[Tensor, "batch latent small_height small_width"],
    ) -> Float[Tensor, ""]:
        mean, log_variance = (part.float() for part in self.network.moments(pixels))
        latents = mean + noise * torch.exp(0.5 * log_variance)
        # Kingma and Welling 2013 (arXiv:1312.6114), Appendix B.
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        return _distance(self.network.decode(latents), pixels) + self._kl_weight * divergence


def _distance(decoded: Tensor, pixels: Tensor) -> Tensor:
    decoded = decoded.float()
    return F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels)


def train_autoencoder(spec: AutoencoderTraining, out: Path, resume: bool) -> Path:
    """Train an autoencoder, with pictures of what it makes of images, and write it.

    Returns:
        The weights file.
    """
    images = load_images(spec.images, spec.architecture.resolution)
    torch.manual_seed(spec.optimization.seed)

    @torch.inference_mode()
    def preview(network: nn.Module, step: int) -> None:
        assert isinstance(network, VqAutoencoder | KlAutoencoder)
        rows = torch.arange(min(NUM_PREVIEWED, len(images)))
        decoded = to_uint8(network.decode(network.encode(images.batch(rows)))).numpy()
        both = alternate(images.pixels[rows].numpy(), decoded)
        save_grid(both, out / f"reconstructions-{step:06d}.png")

    objective = _objective(spec, images)
    network = run_training(objective, len(images), spec.optimization, out, resume, preview)
    assert isinstance(network, VqAutoencoder | KlAutoencoder)
    save_autoencoder(network, out / WEIGHTS_NAME)
    return out / WEIGHTS_NAME


def _objective(spec: AutoencoderTraining, images: TrainingImages) -> VqObjective | KlObjective:
    if not isinstance(spec.architecture, VqAutoencoderConfig):
        return KlObjective(images, spec.architecture, spec.kl_weight)
    return VqObjective(
        images,
        spec.architecture,
        spec.quantize_from,
        spec.revive_every,
        spec.revive_until,
        spec.freeze_encoder_from,
    )
