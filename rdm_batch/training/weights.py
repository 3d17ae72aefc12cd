"""Write an autoencoder to a file of its own, and read it back."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from rdm_batch.errors import CheckpointError
from rdm_batch.formats.safetensors_file import write_tensors
from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder, build_autoencoder
from rdm_batch.models.checkpoint import FORMAT
from rdm_batch.specs.messages import first_problem
from rdm_batch.specs.networks import AutoencoderConfig

WEIGHTS_NAME = "weights.safetensors"
"""The file a training writes."""
_PREFIX = "first_stage_model."
_CONFIG: TypeAdapter[AutoencoderConfig] = TypeAdapter(AutoencoderConfig)


def halved(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return a network's tensors in float16, under names with a prefix."""
    return {
        prefix + name: tensor.detach().cpu().half().contiguous()
        for name, tensor in network.state_dict().items()
    }


def save_autoencoder(autoencoder: VqAutoencoder | KlAutoencoder, path: Path) -> None:
    """Write an autoencoder to one safetensors file, numbers in float16."""
    metadata = {"format": FORMAT, "architecture": autoencoder.config.model_dump_json()}
    write_tensors(path, metadata, halved(autoencoder, _PREFIX))


def load_autoencoder(path: Path) -> VqAutoencoder | KlAutoencoder:
    """Read what ``save_autoencoder`` wrote, or the autoencoder of a head, as float32.

    Raises:
        CheckpointError: If the file is missing, damaged or something else.
    """
    where = str(path)
    if not path.is_file():
        raise CheckpointError(where, "no such file", "weights of `train autoencoder` or a head")
    try:
        with safe_open(path, "pt") as file:
            architecture = json.loads((file.metadata() or {}).get("architecture", "{}"))
        tensors = {
            name.removeprefix(_PREFIX): tensor.float()
            for name, tensor in load_file(path).items()
            if name.startswith(_PREFIX)
        }
        config = _CONFIG.validate_python(architecture.get("autoencoder", architecture))
        autoencoder = build_autoencoder(config)
        autoencoder.load_state_dict(tensors)
    except (SafetensorError, ValueError, ValidationError, RuntimeError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        raise CheckpointError(
            where, f"no autoencoder ({reason})", "weights of `train autoencoder` or a head"
        ) from error
    return autoencoder.eval().requires_grad_(requires_grad=False)


def unit_scale(latents: Tensor) -> float:
    """Compute the factor that gives latents unit variance, to four digits.

    The rounded factor is what the weights file carries and heads multiply by.
    """
    return float(f"{1 / torch.std(latents).item():.4g}")
