"""What the modes have in common whose samples go through given queries in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from rdm_batch.errors import DatabaseError, RdmBatchError
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.queries import GivenPictures
from rdm_batch.retrieval.conditioning import Conditioning, ContextVariant, from_queries
from rdm_batch.retrieval.mixtures import mixed_neighbors
from rdm_batch.retrieval.retriever import Retriever

Variant = ContextVariant | Literal["mixed"]

QUERY_COLUMN = "query"
"""Column of a sample set that names the query of a sample which no other column tells."""
PROMPT_COLUMNS = "prompt."
"""What columns of a table of prompts are called by in a sample set, before their own names."""


def variant_of(context: str) -> Variant:
    """Give what a context holds, by the name a job file has for it."""
    if context == "mixed":
        return "mixed"
    if context == "neighbors":
        return "neighbors"
    return "query_and_neighbors" if context.endswith("_and_neighbors") else "query"


@dataclass(frozen=True)
class Turn:
    """Say which query each sample takes.

    Attributes:
        num_queries: How many there are.
        samples_per_query: Samples in a row that share one.
    """

    num_queries: int
    samples_per_query: int = 1

    def of(self, sample_indices: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Give the position of the query of each sample."""
        chosen: Int64[np.ndarray, " n"] = (
            sample_indices // self.samples_per_query
        ) % self.num_queries
        return chosen


@dataclass(frozen=True)
class ContextOf:
    """Make contexts of queries.

    Attributes:
        k_nn: Tokens of a context.
        variant: What it holds.
        weight: For ``mixed``, how far neighbors turn toward the query.
    """

    k_nn: int
    variant: Variant
    weight: float | None = None

    def __call__(self, retriever: Retriever, queries: Float32[np.ndarray, "n dim"]) -> Conditioning:
        """Condition each sample on its query, its neighbors, both, or their mixture."""
        if self.variant == "mixed":
            assert self.weight is not None  # the spec demands it
            return mixed_neighbors(retriever, queries, self.k_nn, self.weight)
        return from_queries(retriever, queries, self.k_nn, self.variant)


@dataclass(frozen=True)
class Names:
    """Name the query of each sample in the sample set.

    Attributes:
        texts: Name of each query; where there are none, ``stem`` and its position.
        stem: As above.
    """

    texts: tuple[str, ...] = ()
    stem: str = ""

    def of(self, chosen: Int64[np.ndarray, " n"]) -> pa.Array:
        """Give the names of the queries at some positions."""
        places = chosen.tolist()
        named = [self.texts[at] if self.texts else f"{self.stem}#{at}" for at in places]
        return pa.array(named, pa.string())


@dataclass(frozen=True)
class PictureOf:
    """Show the query picture of a sample on a page.

    Attributes:
        pictures: The pictures.
        turn: Which of them each sample takes.
    """

    pictures: GivenPictures = field(repr=False)
    turn: Turn

    def __call__(self, sample_index: int) -> np.ndarray:
        """Decode the query picture of a sample."""
        (chosen,) = self.turn.of(np.array([sample_index], dtype=np.int64)).tolist()
        return self.pictures.source[chosen].image


def wrong_width(field_name: str, dim: int, database: Database) -> Iterator[RdmBatchError]:
    """List a width of given embeddings that is not the database's."""
    if dim != database.manifest.dim:
        manifest = database.manifest
        yield DatabaseError(
            field_name,
            f"holds {dim}-dimensional embeddings, but {database.uri} holds {manifest.dim}-"
            f"dimensional ones of {manifest.encoder.name}",
            f"embeddings of {manifest.encoder.name}",
            "embed with the encoder the database was built with, or name another database",
        )
