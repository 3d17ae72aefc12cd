"""Make the relative paths of a spec absolute, so that every process means the same file."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel

from rdm_batch.errors import SpecError
from rdm_batch.inputs.images import SHAPES_PREFIX
from rdm_batch.specs.base import Location

SpecT = TypeVar("SpecT", bound=BaseModel)
Folders = Mapping[Literal["input", "output"], Path]


def absolute_locations(spec: SpecT, inputs_from: Path, output_from: Path) -> SpecT:
    """Replace relative local paths by absolute ones; URIs with a scheme stay.

    Which fields hold locations stands in their types, ``Uri`` and ``OutputUri``.

    Args:
        spec: The job, or another model with locations.
        inputs_from: Folder that input paths are relative to.
        output_from: Folder that output paths are relative to.

    Raises:
        SpecError: A path starts with the home folder of a user who does not exist.
    """
    return _located_model(spec, {"input": inputs_from, "output": output_from}, ())


def _located_model(model: SpecT, folders: Folders, where: tuple[str, ...]) -> SpecT:
    changes = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        located = _located(value, field.annotation, tuple(field.metadata), folders, (*where, name))
        if located != value:
            changes[name] = located
    return model.model_copy(update=changes) if changes else model


def _located(
    value: Any,
    annotation: Any,
    metadata: tuple[Any, ...],
    folders: Folders,
    where: tuple[str, ...],
) -> Any:
    if isinstance(value, BaseModel):
        return _located_model(value, folders, where)
    arms = list(_arms(annotation, metadata))
    if isinstance(value, str):
        said = [item for kind, own in arms if kind is str for item in own]
        marks = [item for item in said if isinstance(item, Location)]
        return _absolute(value, folders[marks[0].role], where) if marks else value
    if isinstance(value, tuple):
        # One type for all items, as in tuple[X, ...], is what specs use.
        items = [get_args(kind)[0] for kind, _ in arms if get_origin(kind) is tuple]
        return tuple(
            _located(part, items[0], (), folders, (*where, str(place))) if items else part
            for place, part in enumerate(value)
        )
    return value


def _arms(annotation: Any, metadata: tuple[Any, ...]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """List the types a value may have, each with what is said about it."""
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        yield from _arms(inner, (*own, *metadata))
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _arms(member, metadata)
    else:
        yield annotation, metadata


def from_anywhere(uri: str) -> str:
    """Make a location absolute that workers in other folders are told.

    Raises:
        SpecError: A path starts with the home folder of a user who does not exist.
    """
    return _absolute(uri, Path.cwd(), ("path",))


def _absolute(uri: str, base: Path, where: tuple[str, ...]) -> str:
    if "://" in uri or uri.startswith(SHAPES_PREFIX):
        return uri
    try:
        path = Path(uri).expanduser()
    except RuntimeError:
        raise SpecError(".".join(where), f"{uri!r} names the home folder of nobody here") from None
    return str((base / path).absolute())
