"""Train a diffusion head.

Blattmann et al. 2022 (arXiv:2204.11824): the head learns to predict the noise in the
latents of an image from the image's nearest neighbors in a database. Without neighbors it
is the latent diffusion baseline (Rombach et al. 2022, arXiv:2112.10752).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from rdm_batch.heads.knn_continuous import KnnContinuousHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder
from rdm_batch.models.query_unet import QueryUNet
from rdm_batch.models.unet import UNet
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.families import RdmArchitecture, parse_architecture
from rdm_batch.specs.networks import NoiseScheduleConfig
from rdm_batch.specs.training import (
    DiffusionTraining,
    KnnContinuousTraining,
    NeighborTraining,
)
from rdm_batch.training.context import TrainingContext
from rdm_batch.training.heads import HeadPlan, train_head
from rdm_batch.training.images import TrainingImages, encoded, on_device_of
from rdm_batch.training.loop import Compile
from rdm_batch.training.weights import unit_scale


class RdmObjective:
    """Predict noise: |eps - eps_theta(z_t, t, neighbors)|^2, t uniform.

    Args:
        latents: Latents of the training set, of about unit variance.
        context: Gives the neighbors of the training images.
        unet: The network, new.
        noise_schedule: The forward process.
    """

    def __init__(
        self,
        latents: Float[Tensor, "image channel height width"],
        context: TrainingContext,
        unet: UNet,
        noise_schedule: NoiseScheduleConfig,
    ) -> None:
        self.network = unet
        self._latents = latents
        self._context = context
        self._compute = self._error
        self._alphas = torch.from_numpy(NoiseSchedule.from_config(noise_schedule).alphas_cumprod)

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute the squared error of the predicted noise of one batch."""
        clean = self._latents[rows]
        times = torch.randint(len(self._alphas), rows.shape, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        context = self._context(rows, generator)
        alpha = self._alphas[times][:, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        return self._compute(*on_device_of(self.network, noisy, times, context, noise))

    def compile(self, compiled: Compile) -> None:
        """Compile the network and its error; see ``Objective``."""
        self._compute = compiled(self._error)

    def _error(
        self,
        noisy: Float[Tensor, "batch channel height width"],
        times: Int64[Tensor, " batch"],
        context: Float[Tensor, "batch k_nn dim"],
        noise: Float[Tensor, "batch channel height width"],
    ) -> Float[Tensor, ""]:
        return F.mse_loss(self.network(noisy, times, context).float(), noise)


def encode_latents(
    autoencoder: VqAutoencoder | KlAutoencoder, images: TrainingImages
) -> Float[Tensor, "image channel height width"]:
    """Encode a training set once; heads then train on latents alone."""
    return encoded(autoencoder.encode, autoencoder, images)


def train_rdm(spec: DiffusionTraining, out: Path, resume: bool) -> Path:
    """Train a diffusion head, with neighbors or without; see ``train_head``."""
    return train_head(spec, out, resume, _plan)


def _plan(
    spec: DiffusionTraining,
    autoencoder: VqAutoencoder | KlAutoencoder,
    images: TrainingImages,
    context: TrainingContext,
) -> HeadPlan:
    latents = encode_latents(autoencoder, images)
    by_query = isinstance(spec, KnnContinuousTraining)
    fields = {
        "kind": "knn_continuous" if by_query else "rdm",
        "unet": spec.unet.model_dump(),
        "autoencoder": autoencoder.config.model_dump(),
        "noise_schedule": spec.noise_schedule.model_dump(),
        "latent_size": latents.shape[-1],
        "scale_factor": unit_scale(latents),
        "parametric": not isinstance(spec, NeighborTraining),
    }
    architecture = cast(RdmArchitecture, parse_architecture(fields, "unet"))
    unet, head = (QueryUNet, KnnContinuousHead) if by_query else (UNet, RdmHead)
    solver = DdimSolver(NoiseSchedule.from_config(spec.noise_schedule), spec.preview_steps)
    return HeadPlan(
        architecture,
        lambda: RdmObjective(
            latents * architecture.scale_factor, context, unet(spec.unet), spec.noise_schedule
        ),
        "model.diffusion_model.",
        lambda networks, device: head(networks, solver, device=device),
    )
