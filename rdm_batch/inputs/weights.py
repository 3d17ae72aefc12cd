"""Look into weights files, and convert them to this package's format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rdm_batch.errors import CheckpointError, SpecError
from rdm_batch.models.checkpoint import (
    CheckpointInfo,
    check_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from rdm_batch.models.checkpoint_fit import WeightsCopy
from rdm_batch.models.networks import tensor_shapes
from rdm_batch.specs.architecture import Architecture
from rdm_batch.specs.presets import PRESETS, preset_architecture
from rdm_batch.specs.published import load_architecture
from rdm_batch.storage.object_store import local_path


@dataclass(frozen=True)
class CheckpointRequest:
    """Say which weights are meant, and what they should fit.

    Attributes:
        uri: The weights file, a path or ``s3://...``.
        preset: Name of a published architecture, or None.
        architecture: URI of a YAML file with an architecture, or None. Without either, the
            file must carry its own.
        weights: Which copy to take where the file has both.
    """

    uri: str
    preset: str | None = None
    architecture: str | None = None
    weights: WeightsCopy = "ema"

    def named_architecture(self) -> Architecture | None:
        """Give the architecture that was named, if any.

        Raises:
            SpecError: It does not exist, or both a preset and a file were named.
        """
        if self.preset is not None and self.architecture is not None:
            raise SpecError("--preset", "excludes --architecture", action="keep one of them")
        if self.preset is not None:
            return preset_architecture(self.preset)
        if self.architecture is not None:
            return load_architecture(local_path(self.architecture, error=SpecError))
        return None


def inspect_checkpoint(request: CheckpointRequest) -> CheckpointInfo:
    """Compare a weights file with an architecture.

    Raises:
        CheckpointError: The file is missing or cannot be opened as weights at all.
        SpecError: The architecture named is not one.
    """
    path = local_path(request.uri, error=CheckpointError)
    return check_checkpoint(path, request.named_architecture(), request.weights)


def convert_checkpoint(request: CheckpointRequest, out: Path) -> CheckpointInfo:
    """Write the weights that sampling uses as one safetensors file with its architecture.

    Args:
        request: The weights to convert.
        out: File to write; an existing one is not replaced.

    Returns:
        What the new file holds.

    Raises:
        CheckpointError: The weights cannot be used, or ``out`` exists or cannot be written.
        SpecError: The architecture named is not one.
    """
    if out.exists():
        raise CheckpointError(str(out), "exists already", action="name another file")
    checkpoint = load_checkpoint(
        local_path(request.uri, error=CheckpointError),
        request.named_architecture(),
        request.weights,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(out, checkpoint.architecture, checkpoint.state_dict)
    except OSError as error:
        raise CheckpointError(str(out), f"cannot be written ({error.strerror})") from error
    return check_checkpoint(out, None)


def describe_checkpoint(info: CheckpointInfo) -> dict[str, str]:
    """Put what a weights file holds into words, by topic."""
    rows = {"sha256": info.digest, "parameters": f"{info.num_parameters:,}"}
    rows["copies"] = "moving average and raw weights" if info.has_ema else "one"
    if info.architecture is None:
        return rows
    presets = [name for name, preset in PRESETS.items() if preset == info.architecture]
    rows["kind"] = f"{info.architecture.kind}{''.join(f' ({name})' for name in presets)}"
    rows["images"] = f"{info.architecture.image_size} x {info.architecture.image_size}"
    rows["context"] = f"{info.architecture.context_dim} wide"
    sizes: dict[str, int] = {}
    for name, shape in tensor_shapes(info.architecture).items():
        part = name.split(".", 1)[0]
        sizes[part] = sizes.get(part, 0) + math.prod(shape)
    for part, size in sizes.items():
        rows[part] = f"{size:,} parameters"
    return rows
