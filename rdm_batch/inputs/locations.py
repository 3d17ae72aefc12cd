"""Make the relative paths of a spec absolute, so that every process means the same file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

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
        located = _located(value, field.annotation, field.metadata, folders, (*where, name))
        if located != value:
            changes[name] = located
    return model.model_copy(update=changes) if changes else model


def _located(
    value: Any,
    annotation: Any,
    metadata: Iterable[Any],
    folders: Folders,
    where: tuple[str, ...],
) -> Any:
    if isinstance(value, BaseModel):
        return _located_model(value, folders, where)
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        return _located(value, inner, [*own, *metadata], folders, where)
    if isinstance(value, str):
        marks = [*(item for item in metadata if isinstance(item, Location)), *_marks(annotation)]
        return _absolute(value, folders[marks[0].role], where) if marks else value
    if isinstance(value, tuple):
        # One type for all items, as in tuple[X, ...], is what specs use.
        items = [part for part in _members(annotation) if get_origin(part) is tuple]
        item = get_args(items[0])[0] if items else Any
        return tuple(
            _located(part, item, (), folders, (*where, str(place)))
            for place, part in enumerate(value)
        )
    return value


def _marks(annotation: Any) -> Iterable[Location]:
    """Find the marks of the texts that a type allows beside other things."""
    for member in _members(annotation):
        if get_origin(member) is Annotated:
            inner, *own = get_args(member)
            yield from (item for item in own if isinstance(item, Location))
            yield from _marks(inner)


def _members(annotation: Any) -> tuple[Any, ...]:
    """List the members of a union; any other type is its only member."""
    is_union = get_origin(annotation) not in (None, Annotated, tuple, dict)
    return get_args(annotation) if is_union else (annotation,)


def _absolute(uri: str, base: Path, where: tuple[str, ...]) -> str:
    if "://" in uri or uri.startswith(SHAPES_PREFIX):
        return uri
    try:
        path = Path(uri).expanduser()
    except RuntimeError:
        raise SpecError(".".join(where), f"{uri!r} names the home folder of nobody here") from None
    return str((base / path).absolute())
