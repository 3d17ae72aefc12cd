"""Checkpoints of decoding heads: check, load, convert and save.

This package's own format is one safetensors file: tensors under their published names
(``model.diffusion_model.*``, ``transformer.*``, ``first_stage_model.*``), moving averages
already resolved, and the architecture in the metadata. Published Lightning checkpoints and
plain state dicts are read as well; ``weights_file`` says how.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from rdm_batch.errors import CheckpointError, SpecError
from rdm_batch.files import file_sha256
from rdm_batch.formats.safetensors_file import DTYPE_NAMES, write_tensors
from rdm_batch.formats.weights_file import WeightsFile, open_weights
from rdm_batch.models.checkpoint_fit import (
    NOT_WEIGHTS,
    WeightsCopy,
    fit_problems,
    fitting_preset,
    names_in_file,
    shape_problems,
)
from rdm_batch.models.networks import tensor_shapes
from rdm_batch.specs.families import Architecture, parse_architecture

FORMAT: Final = "rdm_batch"


@dataclass(frozen=True)
class CheckpointInfo:
    """Say what a weights file holds, without its tensors having been loaded.

    Attributes:
        architecture: Given, or read from the file; None where there is neither.
        digest: SHA-256 of the file.
        num_parameters: Numbers in the tensors that sampling uses.
        has_ema: Whether the file has a moving average beside the raw weights.
        problems: Everything that keeps these weights from being used, one line each.
    """

    architecture: Architecture | None
    digest: str
    num_parameters: int
    has_ema: bool
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """Hold the weights of a head.

    Attributes:
        architecture: What they are weights of.
        state_dict: Tensors by name, as ``networks.build_networks`` takes them.
    """

    architecture: Architecture
    state_dict: dict[str, Tensor]


def check_checkpoint(
    path: Path, architecture: Architecture | None, weights: WeightsCopy = "ema"
) -> CheckpointInfo:
    """Compare the names and shapes in a weights file with an architecture.

    Reads the header, the noise schedule if the file has one, and every byte for the digest,
    but keeps no weights in memory. Where the file has checksums (archives of torch do,
    safetensors files do not) those of the weights are compared: 1 s a GB.

    Args:
        path: A safetensors file, Lightning checkpoint or state dict.
        architecture: What the weights should fit. None means what the file itself says.
        weights: Which copy to use where the file has both; see ``load_checkpoint``.

    Raises:
        CheckpointError: The file cannot be opened as weights at all.
    """
    file = open_weights(path)
    architecture, problems = _decide_architecture(file, architecture)
    names = names_in_file(file, architecture, weights) if architecture else {}
    if architecture is not None:
        problems += fit_problems(file, architecture, names)
    if not problems:
        problems += [
            f"altered: the bytes of {name} are not those that were written"
            for name in file.altered(names.values())
        ]
    used = names.values() if architecture else set(file.entries) - NOT_WEIGHTS
    return CheckpointInfo(
        architecture=architecture,
        digest=file_sha256(path),
        num_parameters=sum(
            math.prod(file.entries[name].shape) for name in used if name in file.entries
        ),
        has_ema="model_ema.decay" in file.entries,
        problems=tuple(problems),
    )


def load_checkpoint(
    path: Path,
    architecture: Architecture | None = None,
    weights: WeightsCopy = "ema",
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """Load the weights that sampling uses, and nothing else of the file.

    Args:
        path: A safetensors file, Lightning checkpoint or state dict.
        architecture: What the weights should fit. None means what the file itself says.
        weights: Which copy of the UNet to take where a published file has both: its moving
            average (``ema``) or the last training step (``raw``). Files with one copy give
            that one.
        device: Where to put the tensors.

    Raises:
        CheckpointError: The file cannot be opened, does not fit (every missing, unexpected
            and misshapen tensor is listed), or holds numbers that are not finite (every
            such tensor is listed).
    """
    file = open_weights(path)
    architecture, problems = _decide_architecture(file, architecture)
    if architecture is None:
        raise _cannot_use(path, problems)
    names = names_in_file(file, architecture, weights)
    problems += fit_problems(file, architecture, names)
    if problems:
        raise _cannot_use(path, problems)
    state_dict = {}
    for name, name_in_file in names.items():
        tensor = file.read(name_in_file)
        if not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            problems.append(f"not finite: {name_in_file} ({bad:,} of {tensor.numel():,} numbers)")
        if tensor.ndim == 4:
            # The layout heads convolve in: converting here, one by one, keeps a second copy of
            # the weights from ever standing beside the first.
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        state_dict[name] = tensor.to(device)
    if problems:
        raise _cannot_use(path, problems)
    return Checkpoint(architecture, state_dict)


def save_checkpoint(
    path: Path, architecture: Architecture, state_dict: Mapping[str, Tensor]
) -> None:
    """Write weights as one safetensors file that carries their architecture.

    The same weights give the same bytes. The file appears under its name once complete.

    Args:
        path: Where to write.
        architecture: What the weights are weights of.
        state_dict: Tensors as ``networks.build_networks(architecture).state_dict()`` names
            them, of any device and memory layout.

    Raises:
        CheckpointError: Names or shapes do not fit the architecture.
    """
    shapes = tensor_shapes(architecture)
    problems = shape_problems(
        shapes, {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    )
    problems += [
        f"unsupported type: {name} is {tensor.dtype}"
        for name, tensor in state_dict.items()
        if not tensor.dtype.is_floating_point or tensor.dtype not in DTYPE_NAMES
    ]
    if problems:
        raise _cannot_use(path, problems)
    metadata = {"architecture": architecture.model_dump_json(), "format": FORMAT}
    write_tensors(path, metadata, state_dict)


def _decide_architecture(
    file: WeightsFile, given: Architecture | None
) -> tuple[Architecture | None, list[str]]:
    """Choose between the architecture asked for and the one in the file."""
    stored = None
    if file.metadata.get("format") == FORMAT and "architecture" in file.metadata:
        try:
            stored = parse_architecture(file.metadata["architecture"], str(file.path))
        except SpecError as error:
            raise CheckpointError(str(file.path), f"its architecture: {error.found}") from error
    if stored is None and given is None:
        fitting = fitting_preset(file)
        hint = f"; the preset {fitting} fits" if fitting else ""
        return None, [f"the file does not carry its architecture: name a preset or give one{hint}"]
    if stored is not None and given is not None and stored != given:
        return given, [
            f"{field} is {found} in the file but {needed} was asked for"
            for field, found, needed in _differences(stored.model_dump(), given.model_dump())
        ]
    return given or stored, []


def _differences(
    found: Mapping[str, Any], needed: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    differences = []
    for key in sorted(found.keys() | needed.keys()):
        one, other = found.get(key), needed.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            differences += _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            differences.append((prefix + key, one, other))
    return differences


def _cannot_use(path: Path, problems: list[str]) -> CheckpointError:
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    return CheckpointError(str(path), "\n  - ".join([f"{count} with these weights", *problems]))
