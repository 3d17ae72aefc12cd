"""Train a retrieval-augmented diffusion head.

Blattmann et al. 2022 (arXiv:2204.11824): the head learns to predict the noise in the
latents of an image from the image's nearest neighbors in a database.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder
from rdm_batch.models.unet import UNet
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.architecture import NoiseScheduleConfig, UNetConfig
from rdm_batch.training.images import TrainingImages

_ENCODED_AT_ONCE = 256


class RdmObjective:
    """Predict noise: |eps - eps_theta(z_t, t, neighbors)|^2, t uniform.

    Args:
        latents: Latents of the training set, of about unit variance.
        neighbor_ids: Database rows nearest to each training image, best first.
        embeddings: Database embeddings, as stored (not normalized).
        unet: Sizes of the network.
        noise_schedule: The forward process.
        k_train: Neighbors given, the first of ``neighbor_ids``.
        zero_share: Share of the examples whose context is zero, for guidance.
    """

    def __init__(
        self,
        latents: Float[Tensor, "image channel height width"],
        neighbor_ids: Int64[Tensor, "image k"],
        embeddings: Float[Tensor, "row dim"],
        unet: UNetConfig,
        noise_schedule: NoiseScheduleConfig,
        k_train: int,
        zero_share: float,
    ) -> None:
        self.network = UNet(unet)
        self._latents = latents
        self._neighbor_ids = neighbor_ids[:, :k_train]
        self._embeddings = embeddings
        self._alphas = torch.from_numpy(NoiseSchedule.from_config(noise_schedule).alphas_cumprod)
        self._zero_share = zero_share

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute the squared error of the predicted noise of one batch."""
        clean = self._latents[rows]
        times = torch.randint(len(self._alphas), rows.shape, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        without = torch.rand(rows.shape, generator=generator) < self._zero_share
        context = self._embeddings[self._neighbor_ids[rows]]
        context = context.masked_fill(without[:, None, None], 0.0)
        alpha = self._alphas[times][:, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        return F.mse_loss(self.network(noisy, times, context).float(), noise)


@torch.inference_mode()
def encode_latents(
    autoencoder: VqAutoencoder | KlAutoencoder, images: TrainingImages
) -> Float[Tensor, "image channel height width"]:
    """Encode a training set once; heads then train on latents alone."""
    parts = torch.split(torch.arange(len(images)), _ENCODED_AT_ONCE)
    latents = [autoencoder.encode(images.batch(part)) for part in parts]
    return torch.cat(latents).clone()
