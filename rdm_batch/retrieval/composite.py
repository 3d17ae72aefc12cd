"""A retriever over a range of rows that others hold in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.exact import check_k
from rdm_batch.retrieval.merge import Neighbors, merge_top_k
from rdm_batch.retrieval.row_records import RowRecord
from rdm_batch.retrieval.shard import check_dim


@runtime_checkable
class Part(Protocol):
    """Something that holds consecutive rows of a database, here or elsewhere."""

    @property
    def first_row(self) -> int:
        """Id of its first row."""

    @property
    def rows(self) -> int:
        """Rows it holds."""

    @property
    def left(self) -> int:
        """Rows of these that a search may find: all that were not removed."""

    @property
    def dim(self) -> int:
        """Width of an embedding."""


Ask = Callable[[str, Sequence[tuple[Any, tuple[Any, ...]]]], list[Any]]
"""Call a method, by name, of several parts, each with arguments of its own; results in order."""


def ask_in_turn(method: str, calls: Sequence[tuple[Any, tuple[Any, ...]]]) -> list[Any]:
    """Ask parts that live in this process, one after the other."""
    return [getattr(part, method)(*arguments) for part, arguments in calls]


class CompositeRetriever:
    """Ask the parts that hold a range of rows, and merge exactly.

    Implements the ``Retriever`` protocol. A composite is a part itself: the one a job asks is
    made of retriever actors, each of which holds one made of its shards.

    Args:
        parts: Holders of disjoint row ranges that follow each other; in any order.
        ask: Calls ``search``, ``search_exactly``, ``fetch``, ``thumbnails``, ``records`` of parts.
        first_row: Where the range starts.

    Raises:
        DatabaseError: A part is missing or given twice.
    """

    def __init__(self, parts: Sequence[Part], ask: Ask = ask_in_turn, first_row: int = 0) -> None:
        self._parts = sorted(parts, key=lambda part: part.first_row)
        starts = first_row + np.cumsum([0, *(part.rows for part in self._parts)])
        if not self._parts or [p.first_row for p in self._parts] != starts[:-1].tolist():
            raise DatabaseError(
                "retriever",
                f"shards that start at rows {[p.first_row for p in self._parts]}",
                "every shard of one database exactly once",
            )
        self._starts = starts
        self._ask = ask

    @property
    def parts(self) -> Sequence[Part]:
        """Holders of its rows, in order."""
        return tuple(self._parts)

    @property
    def first_row(self) -> int:
        """Id of the first row."""
        return int(self._starts[0])

    @property
    def rows(self) -> int:
        """Rows of the database, or of this range of it."""
        return int(self._starts[-1]) - self.first_row

    @property
    def left(self) -> int:
        """Rows of these that a search may find: all that were not removed."""
        return sum(part.left for part in self._parts)

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._parts[0].dim

    def search(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Find the k nearest rows of each query by cosine similarity.

        Raises:
            DatabaseError: As :meth:`ShardSearcher.search`.
        """
        return self._nearest("search", queries, k)

    def search_exactly(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Find them by exact scans, to judge the index.

        Raises:
            DatabaseError: As :meth:`ShardSearcher.search`.
        """
        return self._nearest("search_exactly", queries, k)

    def _nearest(self, method: str, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        check_k(k, self.left, "database")
        check_dim(queries.shape[1], self.dim, "database")
        calls = [(part, (queries, min(k, part.left))) for part in self._parts if part.left]
        return merge_top_k(self._ask(method, calls), k)

    def resident_bytes(self) -> int:
        """Sum the memory that opening the parts took, without files that are mapped."""
        return sum(self._ask("resident_bytes", [(part, ()) for part in self._parts]))

    def fetch(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """Give the stored (not normalized) embeddings of rows.

        Raises:
            DatabaseError: An id is not a row of the database.
        """
        rows = np.empty((len(ids), self.dim), dtype=np.float32)
        for places, found in self._by_part("fetch", ids):
            rows[places] = found
        return rows

    def thumbnails(self, ids: Int64[np.ndarray, " n"]) -> list[bytes]:
        """Give the thumbnails of rows as PNG files.

        Raises:
            DatabaseError: An id is not a row, or the database stores no thumbnails.
        """
        images: dict[int, bytes] = {}
        for places, found in self._by_part("thumbnails", ids):
            images.update(zip(places.tolist(), found, strict=True))
        return [images[place] for place in range(len(ids))]

    def records(self, ids: Int64[np.ndarray, " n"]) -> list[RowRecord]:
        """Read what is known of rows: captions, addresses, where they came from.

        Raises:
            DatabaseError: An id is not a row of the database, or a table cannot be read.
        """
        known: dict[int, RowRecord] = {}
        for places, found in self._by_part("records", ids):
            known.update(zip(places.tolist(), found, strict=True))
        return [known[place] for place in range(len(ids))]

    def _by_part(
        self, method: str, ids: Int64[np.ndarray, " n"]
    ) -> list[tuple[Int64[np.ndarray, " _"], Any]]:
        """Ask every part for those of the rows it holds; give their places and its answer."""
        end = int(self._starts[-1])
        outside = (ids < self.first_row) | (ids >= end)
        if outside.any():
            raise DatabaseError(
                "database",
                f"row id {int(ids[outside][0])} ({int(outside.sum())} of {len(ids)} ids)",
                f"{self.first_row:,} <= id < {end:,}",
            )
        owners = np.searchsorted(self._starts, ids, side="right") - 1
        asked = [(number, np.flatnonzero(owners == number)) for number in np.unique(owners)]
        calls = [(self._parts[int(number)], (ids[places],)) for number, places in asked]
        answers = self._ask(method, calls)
        return [(places, found) for (_, places), found in zip(asked, answers, strict=True)]
