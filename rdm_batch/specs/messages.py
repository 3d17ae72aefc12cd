"""Turn pydantic's validation errors into messages for the author of a job file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from rdm_batch.errors import SpecError
from rdm_batch.specs.job import JobSpec


def describe(details: ErrorDetails, document: dict[str, Any]) -> SpecError:
    """Say where a field is wrong, what it is, what it should be, and the likely cure.

    Args:
        details: One error of a pydantic validation of ``JobSpec``.
        document: The job that was validated; tells what stands in the file from what
            pydantic added to the location.
    """
    location = [str(part) for part in _visible(details, document)]
    where = ".".join(location) or "job"
    kind = details["type"]
    if kind == "extra_forbidden":
        known = list(_fields_at(JobSpec, details["loc"][:-1]))
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return SpecError(where, "is not a field", "", hint)
    if kind == "missing":
        return SpecError(where, "is missing", "a value")
    if kind == "union_tag_not_found":
        field = details["ctx"]["discriminator"].strip("'")
        return SpecError(f"{where}.{field}", "is missing", _choices(where))
    if kind == "union_tag_invalid":
        context = details["ctx"]
        field = context["discriminator"].strip("'")
        close = difflib.get_close_matches(
            str(context["tag"]), re.findall(r"'([^']*)'", context["expected_tags"]), n=1
        )
        hint = f"did you mean {close[0]}?" if close else ""
        return SpecError(
            f"{where}.{field}", f"is {context['tag']!r}", f"one of {context['expected_tags']}", hint
        )
    message = details["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return SpecError(where, message)
    needed = re.sub(r"^Input should be (a )?(valid )?", "", message)
    return SpecError(where, f"is {_shorten(details['input'])}", needed)


def _visible(details: ErrorDetails, document: object) -> Iterator[int | str]:
    """Drop what pydantic adds to a location (union tags, branch names) and no file holds."""
    node = document
    names_a_field = details["type"] in ("missing", "extra_forbidden")
    loc = details["loc"]
    for position, part in enumerate(loc):
        if isinstance(node, dict):
            if part in node:
                node = node[part]
                yield part
            elif names_a_field and position == len(loc) - 1:
                yield part
        elif isinstance(node, list | tuple) and isinstance(part, int):
            node = node[part] if part < len(node) else None
            yield part


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> Iterator[str]:
    """List the fields allowed at a pydantic location, following union tags."""
    current: object = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field is not None else None
        else:
            current = _branch(current, part)
        models = list(_models_in(current))
        if len(models) == 1:
            current = models[0]
    if isinstance(current, type) and issubclass(current, BaseModel):
        yield from current.model_fields


def _branch(annotation: object, tag: int | str) -> object:
    for candidate in _models_in(annotation):
        for field in candidate.model_fields.values():
            if tag in get_args(field.annotation):
                return candidate
    return None


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _choices(part: str) -> str:
    field = JobSpec.model_fields.get(part)
    tags = [
        tag
        for candidate in _models_in(field.annotation if field else None)
        for tag in get_args(candidate.model_fields[_discriminator(field)].annotation)
    ]
    return f"one of {', '.join(tags)}"


def _discriminator(field: Any) -> str:
    return str(field.discriminator)


def _shorten(value: object, limit: int = 80) -> str:
    # The value may be a location with credentials, which no message repeats.
    text = re.sub(r"://[^/\s]*@", "://***@", repr(value))
    return text if len(text) <= limit else text[: limit - 3] + "..."
