"""Train heads: what is the same for every family, with neighbors and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from rdm_batch.errors import CheckpointError
from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder
from rdm_batch.models.checkpoint import load_checkpoint, save_checkpoint
from rdm_batch.models.networks import build_networks
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.training import HeadTraining
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.context import TrainingContext, training_context
from rdm_batch.training.images import TrainingImages, load_images
from rdm_batch.training.loop import Objective, run_training
from rdm_batch.training.pictures import alternate, save_grid
from rdm_batch.training.weights import WEIGHTS_NAME, halved, load_autoencoder

_AUTOENCODER_PREFIX = "first_stage_model."
Weights = dict[str, Tensor]
"""Of a network, by name."""


@runtime_checkable
class Draws(Protocol):
    """What draws the pictures of a training: a head, or what shows one something besides."""

    def generate(
        self, context: Float32[np.ndarray, "batch k_nn dim"], noise: SampleNoise
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """Draw a picture for every row of a context; see ``Head``."""
        ...


@dataclass(frozen=True)
class HeadPlan:
    """What a family makes of the settings and data of a training.

    Attributes:
        architecture: Of the head.
        make_objective: What to train; called once chance is seeded, for it makes the network.
        prefix: What the trained network's tensors are called in the head's weights.
        make_head: Puts a head around networks with weights on a device, to draw pictures with it.
        kept: The part of what is trained that the head's weights hold.
        num_rows: Examples there are; None: one for every training image.
        widen: What weights named by ``initialize_from`` become for the network of ``kept``.
    """

    architecture: Architecture
    make_objective: Callable[[], Objective]
    prefix: str
    make_head: Callable[[Any, str], Draws]
    kept: Callable[[Any], nn.Module] = lambda network: network
    num_rows: int | None = None
    widen: Callable[[Weights, nn.Module], Weights] = lambda weights, network: weights


PlanHead = Callable[
    [Any, VqAutoencoder | KlAutoencoder, TrainingImages, TrainingContext],
    HeadPlan,
]


def train_head(spec: HeadTraining, out: Path, resume: bool, plan_head: PlanHead) -> Path:
    """Train a head and write it with its autoencoder.

    Args:
        spec: Settings.
        out: Folder to write to.
        resume: Continue from the checkpoint in ``out``.
        plan_head: The family's, from settings, autoencoder, training set and context.

    Returns:
        The weights file.

    Raises:
        SpecError: If the settings do not fit the data.
        CheckpointError: If weights or the checkpoint to resume are missing or do not fit.
        DatabaseError: If the database is damaged or was built with another encoder.
    """
    autoencoder = load_autoencoder(local_path(spec.autoencoder, error=CheckpointError))
    images = load_images(spec.images, autoencoder.config.resolution)
    context, shown = training_context(spec, images)
    first_stage = halved(autoencoder, _AUTOENCODER_PREFIX)
    device = spec.optimization.device
    autoencoder.to(device)
    plan = plan_head(spec, autoencoder, images, context)
    torch.manual_seed(spec.optimization.seed)
    objective = plan.make_objective()
    if spec.initialize_from is not None:
        path = local_path(spec.initialize_from, error=CheckpointError)
        _initialize(plan, plan.kept(objective.network), path)

    def preview(network: nn.Module, step: int) -> None:
        networks = build_networks(plan.architecture)
        networks.load_state_dict({**halved(plan.kept(network), plan.prefix), **first_stage})
        noise = SampleNoise(spec.optimization.seed, np.arange(len(shown)))
        made = plan.make_head(networks, device).generate(shown, noise)
        originals = images.pixels[: len(shown)].numpy()
        save_grid(alternate(originals, made), out / f"samples-{step:06d}.png")

    num_rows = len(images) if plan.num_rows is None else plan.num_rows
    network = run_training(objective, num_rows, spec.optimization, out, resume, preview)
    tensors = {**halved(plan.kept(network), plan.prefix), **first_stage}
    save_checkpoint(out / WEIGHTS_NAME, plan.architecture, tensors)
    return out / WEIGHTS_NAME


def _initialize(plan: HeadPlan, network: nn.Module, path: Path) -> None:
    """Give a new network the weights of a trained one.

    Raises:
        CheckpointError: They are missing, damaged, or those of another network.
    """
    prefix = plan.prefix
    trained = {
        name.removeprefix(prefix): tensor.float()
        for name, tensor in load_checkpoint(path).state_dict.items()
        if name.startswith(prefix)
    }
    found = plan.widen(trained, network)
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    other = sorted(
        name
        for name in own.keys() | found.keys()
        if name not in found or found[name].shape != own.get(name)
    )
    if other:
        more = f" and {len(other) - 1} other tensors" if len(other) > 1 else ""
        raise CheckpointError(
            str(path),
            f"weights of another network than this training's: {prefix}{other[0]}{more} differ",
            "a head of the same kind and sizes",
            "set its sizes, or leave initialize_from out",
        )
    network.load_state_dict(found)
