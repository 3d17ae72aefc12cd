"""Checkpoints of decoding heads: check, load, convert and save.

This package's own format is one safetensors file: tensors under their published names
(``model.diffusion_model.*``, ``transformer.*``, ``first_stage_model.*``), moving averages
already resolved, and the architecture in the metadata. Published Lightning checkpoints and
plain state dicts are read as well; see ``weights_file`` for how.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from rdm_batch.errors import CheckpointError, SpecError
from rdm_batch.models.networks import tensor_shapes
from rdm_batch.models.weights_file import WeightsFile, open_weights
from rdm_batch.specs.architecture import (
    Architecture,
    RarmArchitecture,
    RdmArchitecture,
    parse_architecture,
)
from rdm_batch.specs.presets import PRESETS

FORMAT: Final = "rdm_batch"
WeightsCopy = Literal["ema", "raw"]

# What published files hold beside the networks: schedules (derived from the architecture
# here, and compared with it), bookkeeping of the moving average, special tokens.
_SCHEDULE_BUFFERS: Final = frozenset(
    {
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    }
)
_NOT_WEIGHTS: Final = _SCHEDULE_BUFFERS | {
    "unconditional_guidance_vex",
    "sos_token",
    "mask_token",
    "model_ema.decay",
    "model_ema.num_updates",
}


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
    but keeps no weights in memory.

    Args:
        path: A safetensors file, Lightning checkpoint or state dict.
        architecture: What the weights should fit. None means what the file itself says.
        weights: Which copy to use where the file has both; see ``load_checkpoint``.

    Raises:
        CheckpointError: The file cannot be opened as weights at all.
    """
    file = open_weights(path)
    architecture, problems = _decide_architecture(file, architecture)
    names = _names_in_file(file, architecture, weights) if architecture else {}
    if architecture is not None:
        problems += _fit_problems(file, architecture, names)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    used = names.values() if architecture else set(file.entries) - _NOT_WEIGHTS
    return CheckpointInfo(
        architecture=architecture,
        digest=digest,
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
            and misshapen tensor is listed), or holds numbers that are not finite.
    """
    file = open_weights(path)
    architecture, problems = _decide_architecture(file, architecture)
    if architecture is None:
        raise _cannot_use(path, problems)
    names = _names_in_file(file, architecture, weights)
    problems += _fit_problems(file, architecture, names)
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
    problems = _shape_problems(
        shapes, {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    )
    problems += [
        f"unsupported type: {name} is {tensor.dtype}"
        for name, tensor in state_dict.items()
        if not tensor.dtype.is_floating_point or tensor.dtype not in _DTYPE_NAMES
    ]
    if problems:
        raise _cannot_use(path, problems)
    metadata = {"architecture": architecture.model_dump_json(), "format": FORMAT}
    write_tensors(path, metadata, state_dict)


def write_tensors(
    path: Path, metadata: Mapping[str, str], state_dict: Mapping[str, Tensor]
) -> None:
    """Write tensors as a safetensors file.

    Unlike the safetensors library, which orders its header by chance, this gives the same
    bytes for the same tensors. The file appears under its name once complete.

    Args:
        path: Where to write; folders are made.
        metadata: Stored in the header.
        state_dict: Tensors of any device and memory layout.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name in sorted(state_dict):
        tensor = state_dict[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(state_dict):
            tensor = state_dict[name].detach().cpu().contiguous().flatten()
            stream.write(tensor.view(torch.uint8).numpy().data)
    partial.replace(path)


_DTYPE_NAMES: Final = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
}


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
        fitting = [name for name in PRESETS if not _preset_problems(file, PRESETS[name])]
        hint = f"; the preset {fitting[0]} fits" if fitting else ""
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


def _names_in_file(
    file: WeightsFile, architecture: Architecture, weights: WeightsCopy
) -> dict[str, str]:
    """Map every tensor of the networks to the name under which the file has it.

    Moving averages are stored with the dots of their names removed, so names cannot be
    read back from the file: they are made from the networks' own.
    """
    names = {name: name for name in tensor_shapes(architecture)}
    if weights == "ema" and any(name.startswith("model_ema.") for name in file.entries):
        for name in names:
            if name.startswith("model."):
                names[name] = _ema_name(name)
    return names


def _ema_name(name: str) -> str:
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def _fit_problems(
    file: WeightsFile, architecture: Architecture, names: Mapping[str, str]
) -> list[str]:
    """List everything about a file that does not fit an architecture."""
    expected = tensor_shapes(architecture)
    averages = {_ema_name(name) for name in names if name.startswith("model.")}
    unused = (_NOT_WEIGHTS | averages | set(names)) - set(names.values())
    problems = _shape_problems(
        {names[name]: shape for name, shape in expected.items()},
        {name: entry.shape for name, entry in file.entries.items() if name not in unused},
    )
    problems += [
        f"not floating-point: {name} is {file.entries[name].dtype}"
        for name in names.values()
        if name in file.entries and not file.entries[name].dtype.is_floating_point
    ]
    if problems:
        closest = _closest_preset(file)
        if closest is not None and PRESETS[closest] != architecture:
            problems.insert(0, f"the closest preset is {closest}")
    else:
        problems += _content_problems(file, architecture)
    return problems


def _shape_problems(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    missing = [
        f"missing: {name} {list(shape)}" for name, shape in expected.items() if name not in found
    ]
    unexpected = [
        f"unexpected: {name} {list(shape)}" for name, shape in found.items() if name not in expected
    ]
    misshapen = [
        f"misshapen: {name} is {list(found[name])}, needed {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return missing + unexpected + misshapen


def _content_problems(file: WeightsFile, architecture: Architecture) -> list[str]:
    """Compare the small tensors that say what the weights were trained for."""
    if isinstance(architecture, RarmArchitecture) and "sos_token" in file.entries:
        start_token = int(file.read("sos_token"))
        if start_token != architecture.start_token:
            return [f"start_token is {start_token} in the file, {architecture.start_token} here"]
    if isinstance(architecture, RdmArchitecture) and "betas" in file.entries:
        config = architecture.noise_schedule
        betas = file.read("betas").double().numpy()
        stored = (len(betas), betas[0], betas[-1])
        wanted = (config.num_train_steps, config.linear_start, config.linear_end)
        if not np.allclose(stored, wanted, rtol=1e-5):
            return [
                f"the noise schedule in the file has {stored[0]} steps with betas "
                f"{stored[1]:.6g} to {stored[2]:.6g}; the architecture has {wanted[0]} steps "
                f"with {wanted[1]:.6g} to {wanted[2]:.6g}"
            ]
    return []


def _preset_problems(file: WeightsFile, preset: Architecture) -> int:
    """Count the tensors of a preset that a file lacks or has in another shape."""
    return sum(
        name not in file.entries or file.entries[name].shape != shape
        for name, shape in tensor_shapes(preset).items()
    )


def _closest_preset(file: WeightsFile) -> str | None:
    """Name the preset most tensors of a file fit, if any fit half of it."""
    problems = {name: _preset_problems(file, preset) for name, preset in PRESETS.items()}
    closest = min(problems, key=lambda name: problems[name])
    fits_half = 2 * problems[closest] <= len(tensor_shapes(PRESETS[closest]))
    return closest if fits_half else None


def _cannot_use(path: Path, problems: list[str]) -> CheckpointError:
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    return CheckpointError(str(path), "\n  - ".join([f"{count} with these weights", *problems]))
