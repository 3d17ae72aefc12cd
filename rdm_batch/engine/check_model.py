"""Check a job's head: its architecture, its weights, and what sampling asks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdm_batch.engine.identity import identity_digest
from rdm_batch.errors import CheckpointError, SpecError
from rdm_batch.models.checkpoint import check_checkpoint, load_checkpoint
from rdm_batch.specs.architecture import Architecture
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.model import NullModel, RarmModel, RdmModel
from rdm_batch.specs.presets import preset_architecture
from rdm_batch.specs.published import load_architecture, read_architecture
from rdm_batch.storage.object_store import local_path

_READ_AT_ONCE_BYTES = 64 << 20
"""Weights up to this size are read before the job starts; of larger ones the heads find
numbers that are not finite when they load them."""
_MAX_LISTED = 8


@dataclass(frozen=True)
class CheckedModel:
    """A head that can be built.

    Attributes:
        image_size: Side of its images, pixels.
        context_dim: Width of the embeddings it attends to; None where any will do.
        digest: Of weights and architecture; None for a head without weights.
    """

    image_size: int
    context_dim: int | None
    digest: str | None


def named_architecture(model: RdmModel | RarmModel) -> Architecture | None:
    """Give the architecture a job names; None where the checkpoint is to carry it.

    Raises:
        SpecError: The preset is unknown, or the architecture is not one.
    """
    if model.preset is not None:
        return preset_architecture(model.preset)
    if isinstance(model.architecture, Mapping):
        return read_architecture(model.architecture, "model.architecture")
    if model.architecture is not None:
        return load_architecture(local_path(model.architecture, error=SpecError))
    return None


def check_model(spec: JobSpec) -> CheckedModel:
    """Check that a job's head can be built from its weights.

    Raises:
        SpecError: The architecture named is not one, or not of this kind of head.
        CheckpointError: The weights are missing, damaged, unsafe or do not fit.
    """
    model = spec.model
    if isinstance(model, NullModel):
        return CheckedModel(model.image_size, None, None)
    named = named_architecture(model)
    path = local_path(model.checkpoint, error=CheckpointError)
    info = check_checkpoint(path, named, model.weights)
    if info.problems or info.architecture is None:
        raise _unusable(model.checkpoint, info.problems)
    architecture = info.architecture
    if architecture.kind != model.head:
        raise SpecError(
            "model.head",
            f"is {model.head!r} but {model.checkpoint} holds a {architecture.kind!r} head",
            f"{architecture.kind!r}",
        )
    if architecture.parametric:
        _check_parametric(spec)
    if path.stat().st_size <= _READ_AT_ONCE_BYTES:
        load_checkpoint(path, named, model.weights)
    digest = identity_digest(
        {"weights": info.digest, "architecture": architecture.model_dump(mode="json")}
    )
    return CheckedModel(architecture.image_size, architecture.context_dim, digest)


def _check_parametric(spec: JobSpec) -> None:
    found = None
    if spec.conditioning.mode != "unconditional":
        found = f"conditioning.mode is {spec.conditioning.mode!r}"
    elif spec.sampling.guidance_scale != 1:
        found = f"sampling.guidance_scale is {spec.sampling.guidance_scale:g}"
    if found is not None:
        raise SpecError(
            "model",
            f"the head never sees neighbors (a fully parametric baseline), but {found}",
            "conditioning.mode unconditional and guidance_scale 1",
        )


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
