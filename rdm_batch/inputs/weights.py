"""From the head a job names to its weights; look into weights files, and convert them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rdm_batch.errors import CheckpointError, SpecError
from rdm_batch.files import canonical_digest
from rdm_batch.heads.autoguidance import check_same_latents
from rdm_batch.heads.build import PLAIN_HEADS, build_heads_around
from rdm_batch.heads.compilers import check_compiler
from rdm_batch.heads.head import Head, HowDrawn
from rdm_batch.models.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    check_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from rdm_batch.models.checkpoint_fit import WeightsCopy
from rdm_batch.models.networks import HeadNetworks, load_networks, tensor_shapes
from rdm_batch.specs.architecture_files import load_architecture, read_architecture
from rdm_batch.specs.edits import EditSpec
from rdm_batch.specs.families import Architecture, ModelSpec, WeightedModel
from rdm_batch.specs.presets import PRESETS, preset_architecture
from rdm_batch.specs.sampling import SamplingSpec
from rdm_batch.specs.weights import WeightsSpec
from rdm_batch.storage.object_store import local_path

_READ_AT_ONCE_BYTES = 64 << 20
"""Weights up to this size are read before the job starts; of larger ones the heads find
numbers that are not finite when they load them."""
_MAX_LISTED = 8


@dataclass(frozen=True)
class OpenedWeights:
    """Weights that were found and fit their architecture; small, and pickled as it is.

    Attributes:
        spec: Which ones they are.
        architecture: Named beside them, or carried by them.
        digest: Of weights and architecture.
    """

    spec: WeightsSpec
    architecture: Architecture
    digest: str

    def load_networks(self) -> HeadNetworks:
        """Build the networks around the weights, reading them where this is called.

        Raises:
            RdmBatchError: The weights cannot be used.
        """
        loaded = _load(self.spec.checkpoint, self.architecture, self.spec.weights)
        # Only the networks hold the weights then: converting or moving them leaves no second copy.
        return load_networks(loaded.architecture, loaded.state_dict)


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A head that can be built: its weights were found, and fit its architecture.

    Small and pickled as it is: whoever receives it loads the weights without asking again.

    Attributes:
        model: What the job says about the head.
        architecture: Named by the job, or carried by the weights; None for a head without.
        digest: Of weights and architecture; None for a head without.
        image_size: Side of its images, pixels.
        context_dim: Width of the embeddings it attends to; None where any will do.
        weaker: What ``sampling.autoguidance`` guides it away from; None where nothing does.
    """

    model: ModelSpec
    architecture: Architecture | None
    digest: str | None
    image_size: int
    context_dim: int | None
    weaker: OpenedWeights | None = None

    def check_machine(self, device: str) -> None:
        """Make sure that this machine can run the head, without reading its weights.

        Args:
            device: Where it is to compute, ``cpu`` or ``cuda``.

        Raises:
            ClusterError: The head is to be compiled, and something for that is missing.
        """
        if isinstance(self.model, WeightedModel) and self.model.compile:
            check_compiler(device)

    def load_head(
        self,
        sampling: SamplingSpec,
        context_dim: int,
        device: str,
        edit: EditSpec | None = None,
    ) -> Head:
        """Build the head where this is called, reading its weights there.

        Args:
            sampling: Sampler and its settings.
            context_dim: Width of the database's embeddings.
            device: Where to compute, as torch names it.
            edit: How given pictures are made into others. None: the head makes them from nothing.

        Raises:
            RdmBatchError: The weights or settings cannot be used.
        """
        return self.load_heads([HowDrawn(sampling, edit)], context_dim, device)[0]

    def load_heads(self, ways: Sequence[HowDrawn], context_dim: int, device: str) -> list[Head]:
        """Build heads that draw in several ways, reading weights and compiling once for all.

        Args:
            ways: How each draws; all with autoguidance where ``weaker`` is set, else none.
            context_dim: Width of the database's embeddings.
            device: Where to compute, as torch names it.

        Raises:
            RdmBatchError: The weights or settings cannot be used.
        """
        if not isinstance(self.model, WeightedModel):
            plain = PLAIN_HEADS[self.model.family]
            return [plain(self.image_size, context_dim) for _ in ways]
        self.check_machine(device)
        assert self.architecture is not None
        assert self.digest is not None
        own = OpenedWeights(self.model, self.architecture, self.digest)
        networks = own.load_networks()
        weaker = None
        if self.weaker is not None:
            weaker = self.weaker.load_networks()
            check_same_latents(networks, weaker)
        return build_heads_around(
            networks, ways, device, self.model.precision, self.model.compile, weaker
        )


def open_checkpoint(model: ModelSpec) -> OpenedCheckpoint:
    """Find the weights of a job's head, and check that the head can be built from them.

    Raises:
        SpecError: The architecture named is not one, or not of this kind of head.
        CheckpointError: The weights are missing, damaged, unsafe or do not fit.
    """
    if not isinstance(model, WeightedModel):
        return OpenedCheckpoint(model, None, None, model.image_size, None)
    opened = open_weights(model)
    architecture = opened.architecture
    if architecture.kind != model.family:
        raise SpecError(
            "model.head",
            f"is {model.family!r} but {model.checkpoint} holds a {architecture.kind!r} head",
            f"{architecture.kind!r}",
        )
    return OpenedCheckpoint(
        model, architecture, opened.digest, architecture.image_size, architecture.context_dim
    )


def open_weaker(sampling: SamplingSpec) -> OpenedWeights | None:
    """Find the weights of the head that ``sampling.autoguidance`` names; None without one.

    Raises:
        SpecError: The architecture named is not one.
        CheckpointError: The weights are missing, damaged, unsafe or do not fit.
    """
    autoguidance = getattr(sampling, "autoguidance", None)
    return None if autoguidance is None else open_weights(autoguidance)


def open_weights(spec: WeightsSpec) -> OpenedWeights:
    """Find weights, and check that a head can be built from them.

    Raises:
        SpecError: The architecture named is not one.
        CheckpointError: The weights are missing, damaged, unsafe or do not fit.
    """
    named = named_architecture(spec.preset, spec.architecture)
    path = local_path(spec.checkpoint, error=CheckpointError)
    info = check_checkpoint(path, named, spec.weights)
    architecture = info.architecture
    if info.problems or architecture is None:
        raise _unusable(spec.checkpoint, info.problems)
    if path.stat().st_size <= _READ_AT_ONCE_BYTES:
        load_checkpoint(path, named, spec.weights)
    digest = canonical_digest(
        {"weights": info.digest, "architecture": architecture.model_dump(mode="json")},
        escape=False,
    )
    return OpenedWeights(spec, architecture, digest)


def named_architecture(
    preset: str | None, architecture: Mapping[str, Any] | str | None
) -> Architecture | None:
    """Give the architecture that is named; None where the weights are to carry it.

    Args:
        preset: Name of a published architecture.
        architecture: Its fields, or the URI of a YAML file with them.

    Raises:
        SpecError: The preset is unknown, or the architecture is not one.
    """
    if preset is not None:
        return preset_architecture(preset)
    if isinstance(architecture, Mapping):
        return read_architecture(architecture, "model.architecture")
    if architecture is not None:
        return load_architecture(local_path(architecture, error=SpecError))
    return None


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
        return named_architecture(self.preset, self.architecture)


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
    checkpoint = load_requested(request)
    return save_as_new(out, checkpoint.architecture, checkpoint.state_dict)


def load_requested(request: CheckpointRequest) -> Checkpoint:
    """Load the weights that are meant.

    Raises:
        CheckpointError: The weights cannot be used.
        SpecError: The architecture named is not one.
    """
    return _load(request.uri, request.named_architecture(), request.weights)


def save_as_new(
    out: Path, architecture: Architecture, state_dict: Mapping[str, Tensor]
) -> CheckpointInfo:
    """Write weights and their architecture as one safetensors file.

    Returns:
        What the new file holds.

    Raises:
        CheckpointError: The file cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(out, architecture, state_dict)
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


def _load(uri: str, architecture: Architecture | None, weights: WeightsCopy) -> Checkpoint:
    return load_checkpoint(local_path(uri, error=CheckpointError), architecture, weights)


def _unusable(uri: str, problems: Sequence[str]) -> CheckpointError:
    # Weights of another network differ in hundreds of tensors.
    lines = list(problems[:_MAX_LISTED])
    if len(problems) > _MAX_LISTED:
        rest = len(problems) - _MAX_LISTED
        lines.append(f"and {rest:,} more, all listed by `rdm-batch checkpoint inspect`")
    return CheckpointError(
        uri,
        "\n      ".join(["these weights cannot be used:", *lines]),
        "",
        "name the preset or architecture they were trained with, or other weights",
    )
