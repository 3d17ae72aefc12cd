"""Write an autoencoder to a file of its own, and read it back."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from rdm_batch.errors import CheckpointError
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.json_text import parse_json
from rdm_batch.formats.safetensors_file import write_tensors
from rdm_batch.formats.weights_file import open_weights
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
    where, needed = str(path), "weights of `train autoencoder` or a head"
    file = open_weights(path)
    try:
        architecture = parse_json(file.metadata.get("architecture", "{}"))
        if not isinstance(architecture, dict):
            raise FormatError("its architecture is no mapping")
        config = _CONFIG.validate_python(architecture.get("autoencoder", architecture))
    except (FormatError, ValidationError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        raise CheckpointError(where, f"no autoencoder ({reason})", needed) from None
    # Shapes first, and without memory: the architecture is what the file says it is.
    with torch.device("meta"):
        shapes = {
            _PREFIX + name: tuple(value.shape)
            for name, value in build_autoencoder(config).state_dict().items()
        }
    found = {name: file.entries[name].shape for name in file.entries if name.startswith(_PREFIX)}
    if found != shapes:
        raise CheckpointError(where, "no autoencoder (tensors of another architecture)", needed)
    autoencoder = build_autoencoder(config)
    autoencoder.load_state_dict(
        {name.removeprefix(_PREFIX): file.read(name).float() for name in shapes}
    )
    return autoencoder.eval().requires_grad_(requires_grad=False)


def unit_scale(latents: Tensor) -> float:
    """Compute the factor that gives latents unit variance, to four digits.

    The rounded factor is what the weights file carries and heads multiply by.
    """
    return float(f"{1 / torch.std(latents).item():.4g}")
