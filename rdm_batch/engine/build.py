"""From a job's model and sampling parts to a head that is ready to work."""

from __future__ import annotations

import torch

from rdm_batch.engine.check_model import named_architecture
from rdm_batch.errors import CheckpointError
from rdm_batch.heads.build import build_head_around
from rdm_batch.heads.head import Head
from rdm_batch.heads.null import NullHead
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.models.networks import load_networks
from rdm_batch.specs.model import ModelSpec, NullModel
from rdm_batch.specs.sampling import SamplingSpec
from rdm_batch.storage.object_store import local_path


def head_device() -> str:
    """Choose the GPU this process may use, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def build_job_head(model: ModelSpec, sampling: SamplingSpec, context_dim: int, device: str) -> Head:
    """Load a job's head.

    Args:
        model: The head and its weights.
        sampling: Sampler and its settings.
        context_dim: Width of the database's embeddings.
        device: Where to compute, as torch names it.

    Raises:
        RdmBatchError: The weights or settings cannot be used.
    """
    if isinstance(model, NullModel):
        return NullHead(model.image_size, context_dim)
    checkpoint = load_checkpoint(
        local_path(model.checkpoint, error=CheckpointError),
        named_architecture(model),
        model.weights,
    )
    networks = load_networks(checkpoint.architecture, checkpoint.state_dict)
    # Only the networks hold the weights now: converting or moving them leaves no second copy.
    del checkpoint
    return build_head_around(networks, sampling, device, model.precision, model.compile)
