"""What conditioning and heads may ask of a retrieval database, wherever it lives."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from rdm_batch.retrieval.merge import Neighbors


@runtime_checkable
class Retriever(Protocol):
    """Answer queries over a whole database.

    The answer to a query depends on the query and the database alone: not on the other
    queries of the call, and not on how many shards or processes hold the rows.
    """

    @property
    def rows(self) -> int:
        """Rows of the database."""

    @property
    def dim(self) -> int:
        """Width of an embedding."""

    def search(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Find the k nearest rows of each query by cosine similarity."""

    def fetch(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """Give the stored (not normalized) embeddings of rows."""

    def thumbnails(self, ids: Int64[np.ndarray, " n"]) -> list[bytes]:
        """Give the thumbnails of rows as PNG files."""


@dataclass(frozen=True)
class Search:
    """Hold one search: what was asked, what was found, and how long the asker waited.

    Attributes:
        queries: As asked.
        found: The neighbors.
        seconds: From asking to having them.
    """

    queries: Float32[np.ndarray, "n dim"]
    found: Neighbors
    seconds: float


class ObservedRetriever:
    """Pass everything on, and tell of every search.

    Args:
        retriever: Who answers.
        observe: Called with each search, in the thread that asked.
    """

    def __init__(self, retriever: Retriever, observe: Callable[[Search], None]) -> None:
        self._retriever = retriever
        self._observe = observe

    @property
    def rows(self) -> int:
        """Rows of the database."""
        return self._retriever.rows

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._retriever.dim

    def search(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Find the k nearest rows of each query by cosine similarity, and tell of it."""
        start = time.perf_counter()
        found = self._retriever.search(queries, k)
        self._observe(Search(queries, found, time.perf_counter() - start))
        return found

    def fetch(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """Give the stored (not normalized) embeddings of rows."""
        return self._retriever.fetch(ids)

    def thumbnails(self, ids: Int64[np.ndarray, " n"]) -> list[bytes]:
        """Give the thumbnails of rows as PNG files."""
        return self._retriever.thumbnails(ids)
