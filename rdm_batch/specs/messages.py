"""Turn pydantic's validation errors into messages, for files that people and programs write."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Union, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rdm_batch.errors import SpecError
from rdm_batch.specs.base import models_in

MAX_DESCRIBED = 200
"""Mistakes that are described one by one; looking for what each may mean takes time."""

_WORDS = re.compile(r"""([\s'"]+)""")


def problems_of(
    error: ValidationError, model: object = None, document: object = None, root: str = "job"
) -> tuple[SpecError, ...]:
    """Say of every wrong field where it is, what it is, what it should be, and the likely cure.

    Values are repeated shortened, and without credentials.

    Args:
        error: What the validation raised.
        model: What was validated against: a model or a union of models. It knows the names and
            kinds that are offered instead of wrong ones; None offers none.
        document: What was validated; tells what stands in the file from what pydantic added
            to a location (tags of unions). None shows locations as pydantic gives them.
        root: What to call the whole, where a problem has no field.
    """
    mistakes = error.errors(include_url=False)
    described = [_describe(details, model, document, root) for details in mistakes[:MAX_DESCRIBED]]
    if len(mistakes) > MAX_DESCRIBED:
        described.append(SpecError(root, f"{len(mistakes) - MAX_DESCRIBED:,} more mistakes"))
    return tuple(described)


def first_problem(error: ValidationError, root: str = "the file") -> str:
    """Say what is wrong first, in one line: for a file that a program wrote.

    Args:
        error: What the validation raised.
        root: What to call the whole, where the problem has no field.
    """
    return str(problems_of(error, root=root)[0])


def _describe(details: ErrorDetails, model: object, document: object, root: str) -> SpecError:
    location = [str(part) for part in _visible(details, document)]
    where = ".".join(location) or root
    kind = details["type"]
    if kind == "extra_forbidden":
        known = list(_fields_at(model, details["loc"][:-1]))
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.6)
        others = f"known here: {', '.join(known)}" if known else ""
        hint = f"did you mean {close[0]}?" if close else others
        return SpecError(where, "is not a field", "", hint)
    if kind == "missing":
        return SpecError(where, "is missing", "a value")
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _describe_tag(details, model, location)
    message = details["msg"].removeprefix("Value error, ")
    if kind in ("value_error", "json_invalid"):
        return SpecError(where, message)
    needed = re.sub(r"^Input should be (a )?(valid )?", "", message)
    return SpecError(where, f"is {_shorten(details['input'])}", needed)


def _describe_tag(details: ErrorDetails, model: object, location: list[str]) -> SpecError:
    """Describe a missing or unknown name of a kind, where several kinds of a thing exist."""
    context = details["ctx"]
    field = context["discriminator"].strip("'")
    where = ".".join([*location, field])
    if details["type"] == "union_tag_not_found":
        tags = list(_tags(_annotation_at(model, details["loc"]), field))
        return SpecError(where, "is missing", f"one of {', '.join(tags)}" if tags else "a value")
    expected = context["expected_tags"]
    close = difflib.get_close_matches(str(context["tag"]), re.findall(r"'([^']*)'", expected), n=1)
    hint = f"did you mean {close[0]}?" if close else ""
    return SpecError(where, f"is {_shorten(context['tag'])}", f"one of {expected}", hint)


def _visible(details: ErrorDetails, document: object) -> Iterator[int | str]:
    """Drop what pydantic adds to a location (union tags, branch names) and no file holds."""
    if document is None:
        yield from details["loc"]
        return
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


def _fields_at(model: object, loc: tuple[int | str, ...]) -> Iterator[str]:
    """List the fields allowed at a pydantic location, following union tags."""
    found = _annotation_at(model, loc)
    if isinstance(found, type) and issubclass(found, BaseModel):
        yield from found.model_fields


def _annotation_at(model: object, loc: tuple[int | str, ...]) -> object:
    """Find what is validated at a pydantic location: a model where there is but one."""
    current = model
    for part in loc:
        if isinstance(part, int):
            continue  # an item of a list, whose annotation names the items' model already
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(part)
            current = field.annotation if field is not None else None
        else:
            current = _branch(current, part)
        models = list(models_in(current))
        if len(models) == 1:
            current = models[0]
    return current


def _branch(annotation: object, tag: str) -> object:
    """Find the models with a tag; several where another tag tells them apart."""
    fitting = [
        model
        for model in models_in(annotation)
        if any(tag in get_args(field.annotation) for field in model.model_fields.values())
    ]
    return Union[tuple(fitting)] if fitting else None  # noqa: UP007 (made of what was found)


def _tags(annotation: object, field: str) -> Iterator[str]:
    for candidate in models_in(annotation):
        if field in candidate.model_fields:
            yield from map(str, get_args(candidate.model_fields[field].annotation))


def _shorten(value: object, limit: int = 80) -> str:
    # The value may be a location with credentials, which no message repeats; keys hold slashes.
    text = "".join(map(_without_credentials, _WORDS.split(repr(value))))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _without_credentials(word: str) -> str:
    # By hand: an expression would look again from every "://" of a text made of them.
    start, end = word.find("://"), word.rfind("@")
    return f"{word[:start]}://***{word[end:]}" if 0 <= start < end else word
