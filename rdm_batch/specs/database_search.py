"""What ``rdm-batch database search`` is asked for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from rdm_batch.specs.base import Spec, Uri
from rdm_batch.specs.conditioning import MAX_PROMPT_CHARACTERS

MAX_QUERIES = 100
"""Queries of one search: what somebody looks at, not a job."""

_Text = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]


class DatabaseSearch(Spec):
    """Ask a database for the neighbors of texts, of pictures, or of rows of its own."""

    uri: Uri = Field(description="The database, a path or `s3://`.")
    text: Annotated[tuple[_Text, ...], Field(max_length=MAX_QUERIES)] | None = Field(
        default=None, description="Texts to search for, each in quotes."
    )
    image: Annotated[tuple[Uri, ...], Field(max_length=MAX_QUERIES)] | None = Field(
        default=None, description="PNG, JPEG or WebP files to search for."
    )
    rows: (
        Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=MAX_QUERIES)] | None
    ) = Field(default=None, description="Rows of the database whose neighbors are wanted.")
    k: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=20, description="Neighbors of each query."
    )
    encoder: str | None = Field(
        default=None,
        description="Encoder of texts and pictures. None: the one the database was built with.",
    )
    encoder_weights: Uri | None = Field(
        default=None, description="Its weights file. None: for an encoder that ships here."
    )
    leaves_to_search: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Partitions searched for a query. None: as built."
    )
    reorder: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Candidates rescored for a query. None: as built."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> DatabaseSearch:
        given = [name for name in ("text", "image", "rows") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of --text, --image and --rows{', not ' if given else ''}"
                + " and ".join(f"--{name}" for name in given)
            )
        return self
