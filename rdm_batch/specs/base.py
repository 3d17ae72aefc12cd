"""What every part of a job file has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Uri = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""A path, ``s3://bucket/key``, or ``package://name`` for files that ship with the package."""


class Spec(BaseModel):
    """Refuse unknown fields, never change after loading, and never coerce across types.

    ``strict`` keeps ``num_steps: "50"`` and ``heads: true`` from being read as numbers;
    an integer where a float is wanted stays welcome.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
