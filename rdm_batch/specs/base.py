"""What every part of a job file has in common."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

_USER_INFO = re.compile(r"^[a-z][a-z0-9+.-]*://[^/]*@", re.IGNORECASE)


def _without_credentials(uri: str) -> str:
    # A job is recorded in headers and reports, so nothing secret may get as far as this.
    if _USER_INFO.match(uri):
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
