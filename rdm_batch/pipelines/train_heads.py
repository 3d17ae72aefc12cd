"""Train heads: with neighbors (rdm, rarm), and the same networks without (ldm, ar)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from rdm_batch.errors import CheckpointError, DatabaseError, SpecError
from rdm_batch.heads.head import Head
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.autoencoder import VqAutoencoder
from rdm_batch.models.checkpoint import save_checkpoint
from rdm_batch.models.clip import ImageTextEncoder, load_encoder
from rdm_batch.models.networks import RarmNetworks, RdmNetworks
from rdm_batch.pipelines.training_run import (
    NUM_PREVIEWED,
    WEIGHTS_NAME,
    alternate,
    load_images,
    run_training,
)
from rdm_batch.retrieval.database import read_manifest
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.tables import read_embeddings
from rdm_batch.sampling.autoregressive import TokenSampler
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.architecture import (
    Architecture,
    RarmArchitecture,
    RdmArchitecture,
    TransformerConfig,
)
from rdm_batch.specs.training import (
    ArTraining,
    AutoregressiveTraining,
    DiffusionTraining,
    HeadTraining,
    LdmTraining,
    RarmTraining,
    RdmTraining,
)
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.context import NeighborContext, NoContext, TrainingContext
from rdm_batch.training.images import TrainingImages
from rdm_batch.training.loop import Objective
from rdm_batch.training.pictures import save_grid
from rdm_batch.training.rarm import RarmObjective, encode_codes
from rdm_batch.training.rdm import RdmObjective, encode_latents
from rdm_batch.training.weights import halved, load_autoencoder, unit_scale

_UNET_PREFIX = "model.diffusion_model."
_TRANSFORMER_PREFIX = "transformer."
_AUTOENCODER_PREFIX = "first_stage_model."
BuildHead = Callable[[dict[str, Tensor]], Head]


def train_head(spec: HeadTraining, out: Path, resume: bool) -> Path:
    """Train a head and write it with its autoencoder.

    Returns:
        The weights file.

    Raises:
        SpecError: If the settings do not fit the data.
        CheckpointError: If weights or the checkpoint to resume are missing or do not fit.
        DatabaseError: If the database is damaged or was built with another encoder.
    """
    autoencoder = load_autoencoder(local_path(spec.autoencoder, error=CheckpointError))
    images = load_images(spec.images, autoencoder.config.resolution)
    context, shown = _context(spec, images)
    first_stage = halved(autoencoder, _AUTOENCODER_PREFIX)
    architecture: Architecture
    objective: Objective
    build: BuildHead
    if isinstance(spec, RdmTraining | LdmTraining):
        latents = encode_latents(autoencoder, images)
        architecture = RdmArchitecture(
            unet=spec.unet,
            autoencoder=autoencoder.config,
            noise_schedule=spec.noise_schedule,
            latent_size=latents.shape[-1],
            scale_factor=unit_scale(latents),
            parametric=isinstance(spec, LdmTraining),
        )
        torch.manual_seed(spec.optimization.seed)
        objective = RdmObjective(
            latents * architecture.scale_factor, context, spec.unet, spec.noise_schedule
        )
        build, prefix = _diffusion_preview(architecture, spec), _UNET_PREFIX
    else:
        if not isinstance(autoencoder, VqAutoencoder):
            raise SpecError("autoencoder", f"{spec.autoencoder} has no codebook", "one of kind vq")
        codes = encode_codes(autoencoder, images)
        architecture = _autoregressive(spec, autoencoder, codes.shape[1])
        torch.manual_seed(spec.optimization.seed)
        objective = RarmObjective(
            codes, context, architecture.transformer, architecture.start_token
        )
        build, prefix = _autoregressive_preview(architecture), _TRANSFORMER_PREFIX

    def preview(network: nn.Module, step: int) -> None:
        head = build({**halved(network, prefix), **first_stage})
        made = head.generate(shown, SampleNoise(spec.optimization.seed, np.arange(len(shown))))
        originals = images.pixels[: len(shown)].numpy()
        save_grid(alternate(originals, made), out / f"samples-{step:06d}.png")

    network = run_training(objective, len(images), spec.optimization, out, resume, preview)
    tensors = {**halved(network, prefix), **first_stage}
    save_checkpoint(out / WEIGHTS_NAME, architecture, tensors)
    return out / WEIGHTS_NAME


def _diffusion_preview(architecture: RdmArchitecture, spec: DiffusionTraining) -> BuildHead:
    solver = DdimSolver(NoiseSchedule.from_config(spec.noise_schedule), spec.preview_steps)

    def build(tensors: dict[str, Tensor]) -> Head:
        networks = RdmNetworks(architecture)
        networks.load_state_dict(tensors)
        return RdmHead(networks, solver)

    return build


def _autoregressive(
    spec: AutoregressiveTraining, autoencoder: VqAutoencoder, num_codes: int
) -> RarmArchitecture:
    codebook_size = autoencoder.config.codebook_size
    transformer = TransformerConfig(
        **spec.transformer.model_dump(),
        vocabulary_in=codebook_size + 1,
        vocabulary_out=codebook_size,
        num_positions=num_codes,
    )
    return RarmArchitecture(
        transformer=transformer,
        autoencoder=autoencoder.config,
        start_token=codebook_size,
        parametric=isinstance(spec, ArTraining),
    )


def _autoregressive_preview(architecture: RarmArchitecture) -> BuildHead:
    def build(tensors: dict[str, Tensor]) -> Head:
        networks = RarmNetworks(architecture)
        networks.load_state_dict(tensors)
        return RarmHead(networks, TokenSampler())

    return build


def _context(
    spec: HeadTraining, images: TrainingImages
) -> tuple[TrainingContext, Float32[np.ndarray, "image k_nn dim"]]:
    """Give the context of training, and that of the first images for pictures."""
    dim = _context_dim(spec)
    if not isinstance(spec, RdmTraining | RarmTraining):
        return NoContext(dim), np.zeros((min(NUM_PREVIEWED, len(images)), 1, dim), np.float32)
    encoder_path = spec.encoder
    if encoder_path.endswith(".safetensors"):
        encoder_path = str(local_path(encoder_path))
    weights = None if spec.encoder_weights is None else local_path(spec.encoder_weights)
    encoder = load_encoder(encoder_path, weights)
    embeddings = _read_database(spec, encoder, dim)
    neighbor_ids, _ = exact_top_k(
        embeddings, encoder.encode_images(list(images.pixels.numpy())), spec.neighbors_found
    )
    context = NeighborContext(
        torch.from_numpy(neighbor_ids),
        torch.from_numpy(embeddings),
        spec.k_train,
        spec.zero_share,
    )
    return context, embeddings[neighbor_ids[:NUM_PREVIEWED, : spec.k_train]]


def _context_dim(spec: HeadTraining) -> int:
    if isinstance(spec, RdmTraining | LdmTraining):
        return spec.unet.context_dim
    return spec.transformer.context_dim


def _read_database(
    spec: RdmTraining | RarmTraining, encoder: ImageTextEncoder, dim: int
) -> Float32[np.ndarray, "row dim"]:
    root = local_path(spec.database, error=DatabaseError)
    manifest = read_manifest(root)
    if manifest.encoder.digest != encoder.digest:
        raise DatabaseError(
            spec.database,
            f"embedded by {manifest.encoder.name} {(manifest.encoder.digest or 'unknown')[:12]}",
            f"{encoder.name} {encoder.digest[:12]}, the encoder of this training",
            "build the database again or name its encoder",
        )
    if manifest.dim != dim:
        raise SpecError("context_dim", f"{dim}", f"{manifest.dim}, the width of the database")
    if not spec.k_train <= spec.neighbors_found <= manifest.rows:
        found = f"k_train {spec.k_train}, neighbors_found {spec.neighbors_found}"
        raise SpecError(
            "k_train", found, f"k_train <= neighbors_found <= {manifest.rows:,} database rows"
        )
    shards = [
        read_embeddings(root / shard.embeddings.path, shard.rows, manifest.dim, manifest.dtype)
        for shard in manifest.shards
    ]
    return np.concatenate(shards).astype(np.float32)
