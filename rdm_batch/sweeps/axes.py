"""The fields a sweep varies: what they may be called, and what a cell is called after them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rdm_batch.errors import RdmBatchError, SpecError
from rdm_batch.files import canonical_digest
from rdm_batch.reports.sweep_report import short_axis, show_value
from rdm_batch.specs.base import models_in
from rdm_batch.specs.job import JobSpec

BASE = "base"
"""Name of the cell that is the job as it is written."""
_NOT_SWEPT = {
    "name": "a cell is named after what it varies",
    "output": "cells lie below the job's own output",
    "output.uri": "cells lie below the job's own output",
    "cluster": "it does not change the samples",
    "evaluation": "all cells are judged alike; rdm-batch evaluate judges a set again",
}
_MAX_NAME = 80
_MAX_VALUE = 24
_DIGEST = 6


def axis_problems(where: str, axes: Sequence[str]) -> Iterator[RdmBatchError]:
    """List what is wrong with the names of some axes.

    Args:
        where: Where they stand, such as ``sweep.grid``.
        axes: Dotted names of fields.
    """
    known = list(_dotted_names(JobSpec))
    for axis in axes:
        reason = _NOT_SWEPT.get(axis) or _NOT_SWEPT.get(axis.partition(".")[0])
        if axis == "output.shard_size":
            reason = "all cells are made in the same shards"
        if reason:
            yield SpecError(where, f"{axis} cannot be varied", "", reason)
        elif not _names_a_field(axis.split("."), [JobSpec]):
            close = difflib.get_close_matches(axis, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else "docs/job-spec.md lists all fields"
            yield SpecError(where, f"{axis} is no field of a job", "", hint)
    for axis in axes:
        for other in axes:
            if other.startswith(f"{axis}."):
                yield SpecError(
                    where,
                    f"{axis} and {other} conflict: the second is a part of the first",
                    "fields that can be set independently",
                    "vary the fields of it that differ",
                )


def with_values(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Set fields of a job document by their dotted names; the document stays as it is."""
    changed: dict[str, Any] = dict(document)
    for axis, value in values.items():
        *parents, last = axis.split(".")
        node = changed
        for parent in parents:
            inner = node.get(parent)
            node[parent] = dict(inner) if isinstance(inner, Mapping) else {}
            node = node[parent]
        node[last] = value
    return changed


def name_cells(points: Sequence[Mapping[str, Any]], given: Sequence[str | None]) -> list[str]:
    """Name cells after what they vary: readable, fit for a folder, and no two alike.

    A name depends on its own cell alone, unless two would be called alike: then both carry the
    beginning of a digest of their values. So the sets of a sweep are found again when it grows.

    Args:
        points: What each sets.
        given: Names from the file.
    """
    axes = sorted({axis for point in points for axis in point})
    plain = [own or _name(point, axes) for point, own in zip(points, given, strict=True)]
    return [
        name
        if own is not None or plain.count(name) == 1
        else f"{name[: _MAX_NAME - _DIGEST - 1]}-{canonical_digest(point)[:_DIGEST]}"
        for name, own, point in zip(plain, given, points, strict=True)
    ]


def _name(point: Mapping[str, Any], axes: Sequence[str]) -> str:
    if not point:
        return BASE
    parts = [f"{short_axis(axis, axes)}-{_slug(value)}" for axis, value in point.items()]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", "_".join(parts))
    if len(name) > _MAX_NAME:
        name = f"{name[: _MAX_NAME - _DIGEST - 1]}-{canonical_digest(dict(point))[:_DIGEST]}"
    return name


def _slug(value: Any) -> str:
    if isinstance(value, dict):
        return "_".join(_slug(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return "_".join(map(_slug, value))
    text = show_value(value).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_.")[:_MAX_VALUE] or "empty"


def _dotted_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for inner in models_in(field.annotation):
            yield from _dotted_names(inner, f"{prefix}{name}.")


def _names_a_field(parts: Sequence[str], models: Sequence[type[BaseModel]]) -> bool:
    found: list[FieldInfo] = [
        model.model_fields[parts[0]] for model in models if parts[0] in model.model_fields
    ]
    if not found or len(parts) == 1:
        return bool(found)
    # What a mapping of any content may hold is for whoever reads it.
    return any(
        "dict[" in str(field.annotation)
        or _names_a_field(parts[1:], list(models_in(field.annotation)))
        for field in found
    )
