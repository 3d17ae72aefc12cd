"""What every part of a job file has in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://(.*)$", re.IGNORECASE | re.DOTALL)
_SIGNED = re.compile(r"[?&](x-amz-(signature|credential|security-token)|signature)=", re.IGNORECASE)


def carries_credentials(uri: str) -> bool:
    """Tell whether a URI holds a user, a password, a key or a signature."""
    match = _SCHEME.match(uri)
    if match is None:
        return False
    scheme, rest = match.group(1).lower(), match.group(2)
    first = rest.partition("/")[0]
    if "@" in first or _SIGNED.search(rest):
        return True
    # The secrets of AWS may hold slashes, and no bucket but an ARN holds a colon.
    colon = ":" in first and not first.lower().startswith("arn:")
    return colon and (scheme == "s3" or "@" in rest)


def _without_credentials(uri: str) -> str:
    # A job is recorded in headers and reports, so nothing secret may get as far as this.
    if carries_credentials(uri):
        raise ValueError(
            "carries credentials; put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "or ~/.aws/credentials, and only the location here"
        )
    return uri


@dataclass(frozen=True)
class Location:
    """Mark a field as a location, which is found in its type.

    Args:
        role: Whether something is read there or written there.
    """

    role: Literal["input", "output"]


_Location = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1),
    AfterValidator(_without_credentials),
]
Uri = Annotated[_Location, Location("input")]
"""A path, ``s3://bucket/key``, or ``package://name`` for files that ship with the package."""
OutputUri = Annotated[_Location, Location("output")]
"""A path or ``s3://bucket/prefix`` that is written to."""


class Spec(BaseModel):
    """Refuse unknown fields, never change after loading, and never coerce across types.

    ``strict`` keeps ``num_steps: "50"`` and ``heads: true`` from being read as numbers;
    an integer where a float is wanted stays welcome.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def members(union: Any, tag: str) -> dict[str, Any]:
    """List the models of a tagged union by their tags, in the order they are declared.

    Args:
        union: An ``Annotated`` union of models, or one of unions of such.
        tag: The field, a ``Literal`` of one value, that says which model is meant.
    """
    return {get_args(model.model_fields[tag].annotation)[0]: model for model in models_in(union)}


def models_in(union: Any) -> Iterator[type[BaseModel]]:
    """Give the models of a tagged union, or of unions in unions, in the order they are declared."""
    if isinstance(union, type):
        if issubclass(union, BaseModel):
            yield union
        return
    for part in get_args(union):
        yield from models_in(part)
