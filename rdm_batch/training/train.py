"""The training commands: read the settings, and hand them to what trains that kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from rdm_batch.errors import SpecError
from rdm_batch.heads.compilers import check_compiler
from rdm_batch.reports.progress import Progress
from rdm_batch.specs.training import load_training
from rdm_batch.training.autoencoder import train_autoencoder
from rdm_batch.training.clip import train_clip
from rdm_batch.training.edits import train_knn_edit
from rdm_batch.training.knn_discrete import train_knn_discrete
from rdm_batch.training.rarm import train_rarm
from rdm_batch.training.rdm import train_rdm

TRAINERS: Final[dict[str, Callable[[Any, Path, bool], Path]]] = {
    "clip": train_clip,
    "autoencoder": train_autoencoder,
    "rdm": train_rdm,
    "rarm": train_rarm,
    "ldm": train_rdm,
    "ar": train_rarm,
    "knn_discrete": train_knn_discrete,
    "knn_continuous": train_rdm,
    "knn_edit": train_knn_edit,
}
"""What trains each of ``specs.training.TRAININGS``: from its settings, the folder to write to
and whether to resume, to the weights file."""


def train(kind: str, config: Path, out: Path, resume: bool = False) -> Path:
    """Train a network as a configuration file says.

    Args:
        kind: What to train, one of ``specs.training.TRAININGS``.
        config: YAML file with the settings.
        out: Folder for weights, checkpoint, pictures and the record of the run.
        resume: Continue from the checkpoint in ``out``; on a CPU the result is the same, bit for
            bit, as without the interruption, on a GPU up to last digits.

    Returns:
        The weights file.

    Raises:
        SpecError: If the settings are wrong, do not fit the data, or ask for a GPU where there
            is none.
        CheckpointError: If weights or the checkpoint to resume are missing or do not fit.
        DatabaseError: If the database is damaged or was built with another encoder.
        ClusterError: If what the training should be compiled with is missing.
    """
    spec = load_training(config, kind)
    device = spec.optimization.device
    if device == "cuda" and not torch.cuda.is_available():
        raise SpecError("optimization.device", "cuda, but no GPU is usable here", "cpu")
    if spec.optimization.compile:
        check_compiler(device, "optimization.compile")
    # The loop prints how far it is; what comes before and between may take minutes too.
    with Progress() as progress, progress.step(f"train {kind}"):
        return TRAINERS[kind](spec, out, resume)
