"""What a conditioning mode is: all that a job needs to know about how its samples are conditioned.

A mode is a class in a module of its own here, listed in ``MODES`` under the ``mode`` of its part of
a job file. The numerics are in ``retrieval.conditioning``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64, UInt8

from rdm_batch.errors import RdmBatchError, SpecError
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.prompts import Prompts
from rdm_batch.inputs.queries import GivenQueries
from rdm_batch.inputs.resolve import Resolved
from rdm_batch.retrieval.conditioning import Conditioning
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.job import EncoderSpec

EmbeddedTexts = Float32[np.ndarray, "texts dim"]


@dataclass(frozen=True)
class Sources:
    """Name the pictures that samples are edits of, and decode them once they are needed.

    Attributes:
        names: Of each sample's picture.
        captions: Of each sample's picture; None where it has none.
        decode: Gives each sample's picture, of the head's size.
    """

    names: tuple[str, ...]
    captions: tuple[str | None, ...]
    decode: Callable[[], UInt8[np.ndarray, "samples height width 3"]]


@dataclass(frozen=True)
class SampleInputs:
    """Hold what the samples of a shard are made from, in sample order.

    Attributes:
        conditioning: Context and its provenance.
        labels: Class of each sample; None outside class conditioning.
        prompts: Text that was embedded for each sample; None without text.
        columns: What else is recorded of each sample, by the name of its column.
        sources: What each sample is an edit of; None where samples are made from nothing.
    """

    conditioning: Conditioning
    labels: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    columns: Mapping[str, pa.Array] = field(default_factory=dict)
    sources: Sources | None = None


@runtime_checkable
class Conditioner(Protocol):
    """Condition samples, each from its own noise: never from its shard or batch."""

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Look up and assemble the context of every sample of ``noise``."""


def pick(texts: Sequence[str], chosen: Int64[np.ndarray, " n"]) -> tuple[str, ...]:
    """Give the text of each sample by its position."""
    return tuple(texts[position] for position in chosen.tolist())


QueryPicture = Callable[[int], UInt8[np.ndarray, "height width 3"]]
"""Give the picture that a sample was conditioned on, by the sample's index."""


@runtime_checkable
class Embed(Protocol):
    """Embed with an encoder, wherever there is room for it."""

    def __call__(self, encoder: EncoderSpec, texts: tuple[str, ...], /) -> EmbeddedTexts:
        """Embed texts; rows are not normalized."""

    def pictures(
        self, encoder: EncoderSpec, location: str, count: int, /
    ) -> Float32[np.ndarray, "pictures dim"]:
        """Embed the pictures at a location; rows are not normalized."""


@runtime_checkable
class Mode(Protocol):
    """One way of conditioning, with the settings of a job.

    Attributes:
        needs_proposal: Whether it draws from the proposal distribution of the database.
    """

    @property
    def needs_proposal(self) -> bool:
        """Tell whether the proposal distribution of the database is to be opened."""

    def read_prompts(self) -> Prompts | None:
        """Collect the texts to embed; None where there are none.

        Raises:
            SpecError: A file of texts is missing or cannot be used.
        """

    def read_queries(self) -> GivenQueries | None:
        """Read what else queries come from; None where there is nothing.

        Raises:
            RdmBatchError: It is missing or cannot be used.
        """

    def problems(self, database: Database, queries: GivenQueries | None) -> Iterator[RdmBatchError]:
        """List what is asked for and the database cannot give.

        Args:
            database: The database.
            queries: What ``read_queries`` gave; None also where it failed.
        """

    def build_conditioner(self, opened: Resolved, embed: Embed) -> Conditioner:
        """Build what conditions the samples of a job.

        Args:
            opened: What the job names.
            embed: Embeds the texts and pictures of the job.

        Raises:
            RdmBatchError: The encoder cannot be used.
        """

    def picture_of(self, queries: GivenQueries | None) -> QueryPicture | None:
        """Say how to show the picture a sample was conditioned on; None where there is none.

        Args:
            queries: What ``read_queries`` gave.
        """


class NoTexts:
    """A mode that embeds no text."""

    def read_prompts(self) -> Prompts | None:
        """Embed no text."""
        return None


class NoQueries:
    """A mode whose queries are texts alone, or are drawn."""

    def read_queries(self) -> GivenQueries | None:
        """Read nothing."""
        return None


class NoPictures:
    """A mode whose samples have no query picture."""

    def picture_of(self, queries: GivenQueries | None) -> QueryPicture | None:
        """Show nothing."""
        return None


def too_few_rows(field: str, wanted: int, database: Database) -> Iterator[SpecError]:
    """List a field that asks a database for more rows than it holds.

    Args:
        field: The field, as in ``conditioning.k_nn``.
        wanted: Rows asked for.
        database: Where they are to come from.
    """
    rows = database.manifest.left
    if wanted > rows:
        yield SpecError(
            field, f"is {wanted} but {database.uri} holds {rows:,} rows", f"at most {rows:,}"
        )


def embedded(opened: Resolved, embed: Embed) -> tuple[tuple[str, ...], EmbeddedTexts]:
    """Embed the texts of a job whose mode has some, and give both."""
    assert opened.prompts is not None
    assert opened.encoder is not None  # the spec demands it where texts are embedded
    return opened.prompts.texts, embed(opened.encoder.spec, opened.prompts.texts)
