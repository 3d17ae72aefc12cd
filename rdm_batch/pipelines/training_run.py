"""Run one training: the loop, its pictures and its record."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from rdm_batch.inputs.images import open_images
from rdm_batch.specs.training import Optimization
from rdm_batch.training.images import TrainingImages
from rdm_batch.training.loop import Objective, TrainingLoop
from rdm_batch.training.pictures import save_losses

WEIGHTS_NAME = "weights.safetensors"
NUM_PREVIEWED = 64


def load_images(location: str, image_size: int) -> TrainingImages:
    """Read a training set into memory.

    Raises:
        ImageError: Nothing usable is there.
        SpecError: The shapes are not described correctly.
    """
    return TrainingImages.load(open_images(location)[0], image_size)


def run_training(
    objective: Objective,
    num_images: int,
    optimization: Optimization,
    out: Path,
    resume: bool,
    preview: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Run the loop with pictures at every checkpoint, and record the run.

    Args:
        objective: What to train.
        num_images: Size of the training set.
        optimization: Settings of the loop.
        out: Folder for checkpoint, pictures and the record of the run.
        resume: Continue from the checkpoint in ``out``.
        preview: Draws a picture of what a network has learned up to a step.

    Returns:
        The network with averaged weights.

    Raises:
        CheckpointError: If the checkpoint to resume is missing or of other settings.
    """
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


def alternate(
    originals: UInt8[np.ndarray, "image height width 3"],
    made: UInt8[np.ndarray, "image height width 3"],
    columns: int = 16,
) -> UInt8[np.ndarray, "_ height width 3"]:
    """Put rows of originals above rows of what was made of them."""
    rows = []
    for start in range(0, len(originals), columns):
        rows += [originals[start : start + columns], made[start : start + columns]]
    return np.concatenate(rows)
