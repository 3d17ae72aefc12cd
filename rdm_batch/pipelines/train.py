"""The training commands: read settings and data, run the loop, write weights and pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from rdm_batch.engine.image_sources import open_images
from rdm_batch.errors import DatabaseError, SpecError
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.autoencoder import VqAutoencoder
from rdm_batch.models.checkpoint import save_checkpoint
from rdm_batch.models.clip import ImageTextEncoder, collect_vocabulary, load_encoder, save_clip
from rdm_batch.models.networks import RdmNetworks
from rdm_batch.models.pixels import to_uint8
from rdm_batch.retrieval.database import read_manifest
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.tables import read_embeddings
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.architecture import RdmArchitecture
from rdm_batch.specs.clip import ClipArchitecture
from rdm_batch.specs.training import (
    AutoencoderTraining,
    ClipTraining,
    Optimization,
    RdmTraining,
    load_training,
)
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.autoencoder import VqObjective
from rdm_batch.training.clip import ClipObjective
from rdm_batch.training.images import TrainingImages
from rdm_batch.training.loop import Objective, TrainingLoop
from rdm_batch.training.pictures import save_grid, save_losses
from rdm_batch.training.rdm import RdmObjective, encode_latents
from rdm_batch.training.weights import (
    halved,
    load_autoencoder,
    save_autoencoder,
    unit_scale,
)

Kind = Literal["clip", "autoencoder", "rdm"]
_PREVIEWED = 64
WEIGHTS_NAME = "weights.safetensors"


def train(kind: Kind, config: Path, out: Path, resume: bool = False) -> Path:
    """Train a network as a configuration file says.

    Args:
        kind: What to train.
        config: YAML file with the settings.
        out: Folder for weights, checkpoint, pictures and the record of the run.
        resume: Continue from the checkpoint in ``out``; the result is the same, bit for
            bit, as without the interruption.

    Returns:
        The weights file.

    Raises:
        SpecError: If the settings are wrong or do not fit the data.
        CheckpointError: If weights or the checkpoint to resume are missing or do not fit.
        DatabaseError: If the database is damaged or was built with another encoder.
    """
    if kind == "clip":
        return _train_clip(load_training(config, ClipTraining), out, resume)
    if kind == "autoencoder":
        return _train_autoencoder(load_training(config, AutoencoderTraining), out, resume)
    return _train_rdm(load_training(config, RdmTraining), out, resume)


def _train_clip(spec: ClipTraining, out: Path, resume: bool) -> Path:
    images = _load_images(spec.images, spec.sizes.image_size)
    torch.manual_seed(spec.optimization.seed)
    architecture = ClipArchitecture(
        **spec.sizes.model_dump(),
        name=spec.name,
        vocabulary=collect_vocabulary(caption for caption in images.captions if caption),
    )
    objective = ClipObjective(images, architecture, spec.max_logit_scale)
    network = _run(objective, len(images), spec.optimization, out, resume)
    objective.calibrate(network)
    save_clip(network, architecture, out / WEIGHTS_NAME)
    return out / WEIGHTS_NAME


def _train_autoencoder(spec: AutoencoderTraining, out: Path, resume: bool) -> Path:
    images = _load_images(spec.images, spec.architecture.resolution)
    torch.manual_seed(spec.optimization.seed)
    objective = VqObjective(
        images,
        spec.architecture,
        spec.quantize_from,
        spec.revive_every,
        spec.revive_until,
        spec.freeze_encoder_from,
    )

    @torch.inference_mode()
    def preview(network: nn.Module, step: int) -> None:
        assert isinstance(network, VqAutoencoder)
        rows = torch.arange(min(_PREVIEWED, len(images)))
        decoded = to_uint8(network.decode(network.encode(images.batch(rows)))).numpy()
        both = _alternate(images.pixels[rows].numpy(), decoded)
        save_grid(both, out / f"reconstructions-{step:06d}.png")

    network = _run(objective, len(images), spec.optimization, out, resume, preview)
    assert isinstance(network, VqAutoencoder)
    save_autoencoder(network, out / WEIGHTS_NAME)
    return out / WEIGHTS_NAME


def _train_rdm(spec: RdmTraining, out: Path, resume: bool) -> Path:
    autoencoder = load_autoencoder(local_path(spec.autoencoder))
    encoder_path = spec.encoder
    if encoder_path.endswith(".safetensors"):
        encoder_path = str(local_path(encoder_path))
    weights = None if spec.encoder_weights is None else local_path(spec.encoder_weights)
    encoder = load_encoder(encoder_path, weights)
    embeddings = _read_database(spec, encoder)
    images = _load_images(spec.images, autoencoder.config.resolution)
    neighbor_ids, _ = exact_top_k(
        embeddings, encoder.encode_images(list(images.pixels.numpy())), spec.neighbors_found
    )
    latents = encode_latents(autoencoder, images)
    scale = unit_scale(latents)
    architecture = RdmArchitecture(
        unet=spec.unet,
        autoencoder=autoencoder.config,
        noise_schedule=spec.noise_schedule,
        latent_size=latents.shape[-1],
        scale_factor=scale,
    )
    torch.manual_seed(spec.optimization.seed)
    objective = RdmObjective(
        latents * scale,
        torch.from_numpy(neighbor_ids),
        torch.from_numpy(embeddings),
        spec.unet,
        spec.noise_schedule,
        spec.k_train,
        spec.zero_share,
    )
    schedule = NoiseSchedule.from_config(spec.noise_schedule)
    solver = DdimSolver(schedule, spec.preview_steps)
    shown = embeddings[neighbor_ids[:_PREVIEWED, : spec.k_train]]

    def preview(network: nn.Module, step: int) -> None:
        networks = RdmNetworks(architecture)
        networks.load_state_dict(_head_tensors(network, autoencoder))
        head = RdmHead(networks, solver)
        noise = SampleNoise(spec.optimization.seed, np.arange(len(shown)))
        save_grid(
            _alternate(images.pixels[: len(shown)].numpy(), head.generate(shown, noise)),
            out / f"samples-{step:06d}.png",
        )

    network = _run(objective, len(images), spec.optimization, out, resume, preview)
    save_checkpoint(out / WEIGHTS_NAME, architecture, _head_tensors(network, autoencoder))
    return out / WEIGHTS_NAME


def _load_images(location: str, image_size: int) -> TrainingImages:
    return TrainingImages.load(open_images(location)[0], image_size)


def _read_database(spec: RdmTraining, encoder: ImageTextEncoder) -> np.ndarray:
    root = local_path(spec.database, error=DatabaseError)
    manifest = read_manifest(root)
    if manifest.encoder.digest != encoder.digest:
        raise DatabaseError(
            spec.database,
            f"embedded by {manifest.encoder.name} {(manifest.encoder.digest or 'unknown')[:12]}",
            f"{encoder.name} {encoder.digest[:12]}, the encoder of this training",
            "build the database again or name its encoder",
        )
    if manifest.dim != spec.unet.context_dim:
        raise SpecError("unet.context_dim", f"{spec.unet.context_dim}", f"{manifest.dim}")
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


def _head_tensors(unet: nn.Module, autoencoder: VqAutoencoder) -> dict[str, Tensor]:
    return {
        **halved(unet, "model.diffusion_model."),
        **halved(autoencoder, "first_stage_model."),
    }


def _alternate(
    originals: UInt8[np.ndarray, "image height width 3"],
    made: UInt8[np.ndarray, "image height width 3"],
    columns: int = 16,
) -> UInt8[np.ndarray, "_ height width 3"]:
    """Put rows of originals above rows of what was made of them."""
    rows = []
    for start in range(0, len(originals), columns):
        rows += [originals[start : start + columns], made[start : start + columns]]
    return np.concatenate(rows)


def _run(
    objective: Objective,
    num_images: int,
    optimization: Optimization,
    out: Path,
    resume: bool,
    preview: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Run the loop with pictures at every checkpoint, and record the run."""
    started = time.monotonic()

    def show(network: nn.Module, step: int) -> None:
        save_losses(loop.losses, out / "losses.png")
        if preview is not None:
            preview(network, step)

    loop = TrainingLoop(objective, num_images, optimization, out / "checkpoint.pt", show)
    if resume:
        loop.resume()
    first_step = loop.step
    network = loop.run()
    seconds = time.monotonic() - started
    record = {
        "steps": loop.step,
        "resumed_from_step": first_step,
        "images": num_images,
        "parameters": sum(p.numel() for p in network.parameters()),
        "last_loss": float(np.mean(loop.losses[-optimization.log_every :])),
        "seconds": round(seconds, 1),
        "images_per_s": round((loop.step - first_step) * optimization.batch_size / seconds, 1),
        "threads": torch.get_num_threads(),
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    return network
