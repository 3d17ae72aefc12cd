"""What conditioning and heads may ask of a retrieval database, wherever it lives."""

from __future__ import annotations

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
