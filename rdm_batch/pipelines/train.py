"""The training commands: read settings and data, run the loop, write weights and pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from rdm_batch.errors import CheckpointError, SpecError
from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder
from rdm_batch.models.clip import collect_vocabulary, load_clip, save_clip
from rdm_batch.models.pixels import to_uint8
from rdm_batch.pipelines.train_heads import train_head
from rdm_batch.pipelines.training_run import (
    NUM_PREVIEWED,
    WEIGHTS_NAME,
    alternate,
    load_images,
    run_training,
)
from rdm_batch.specs.architecture import VqAutoencoderConfig
from rdm_batch.specs.clip import ClipArchitecture
from rdm_batch.specs.training import AutoencoderTraining, ClipTraining, Kind, load_training
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.autoencoder import KlObjective, VqObjective
from rdm_batch.training.clip import ClipObjective
from rdm_batch.training.images import TrainingImages
from rdm_batch.training.pictures import save_grid
from rdm_batch.training.text_tower import TextTowerObjective
from rdm_batch.training.weights import save_autoencoder


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
        SpecError: If the settings are wrong, do not fit the data, or ask for a GPU where there
            is none.
        CheckpointError: If weights or the checkpoint to resume are missing or do not fit.
        DatabaseError: If the database is damaged or was built with another encoder.
    """
    spec = load_training(config, kind)
    if spec.optimization.device == "cuda" and not torch.cuda.is_available():
        raise SpecError("optimization.device", "cuda, but no GPU is usable here", "cpu")
    if isinstance(spec, ClipTraining):
        return _train_clip(spec, out, resume)
    if isinstance(spec, AutoencoderTraining):
        return _train_autoencoder(spec, out, resume)
    return train_head(spec, out, resume)


def _train_clip(spec: ClipTraining, out: Path, resume: bool) -> Path:
    if spec.image_tower is not None:
        return _train_text_tower(
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


def _train_text_tower(spec: ClipTraining, image_tower: Path, out: Path, resume: bool) -> Path:
    network, architecture = load_clip(image_tower)
    architecture = architecture.model_copy(update={"name": spec.name})
    images = load_images(spec.images, architecture.image_size)
    objective = TextTowerObjective(
        images, network, architecture, spec.max_logit_scale, spec.alignment_weight
    )
    network = run_training(objective, len(images), spec.optimization, out, resume)
    save_clip(network, architecture, out / WEIGHTS_NAME)
    return out / WEIGHTS_NAME


def _train_autoencoder(spec: AutoencoderTraining, out: Path, resume: bool) -> Path:
    images = load_images(spec.images, spec.architecture.resolution)
    torch.manual_seed(spec.optimization.seed)

    @torch.inference_mode()
    def preview(network: nn.Module, step: int) -> None:
        assert isinstance(network, VqAutoencoder | KlAutoencoder)
        rows = torch.arange(min(NUM_PREVIEWED, len(images)))
        decoded = to_uint8(network.decode(network.encode(images.batch(rows)))).numpy()
        both = alternate(images.pixels[rows].numpy(), decoded)
        save_grid(both, out / f"reconstructions-{step:06d}.png")

    objective = _autoencoder_objective(spec, images)
    network = run_training(objective, len(images), spec.optimization, out, resume, preview)
    assert isinstance(network, VqAutoencoder | KlAutoencoder)
    save_autoencoder(network, out / WEIGHTS_NAME)
    return out / WEIGHTS_NAME


def _autoencoder_objective(
    spec: AutoencoderTraining, images: TrainingImages
) -> VqObjective | KlObjective:
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
