"""How a database is spread over workers: each holds the shards of a range of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.retrieval.effort import SearchEffort


@dataclass(frozen=True)
class RowRange:
    """Name consecutive shards and the rows they hold."""

    shards: tuple[int, ...]
    first_row: int
    rows: int

    def left(self, removed: Int64[np.ndarray, " gone"]) -> int:
        """Count the rows that were not removed, whose ids are given in order."""
        first, end = np.searchsorted(removed, [self.first_row, self.first_row + self.rows])
        return self.rows - int(end - first)


def row_ranges(manifest: DatabaseManifest, count: int | None) -> list[RowRange]:
    """Cut a database into at most ``count`` ranges of whole shards; None: one a shard."""
    shards = manifest.shards
    groups = np.array_split(np.arange(len(shards)), min(count or len(shards), len(shards)))
    return [
        RowRange(
            tuple(group.tolist()),
            shards[group[0]].first_row,
            sum(shards[number].rows for number in group),
        )
        for group in groups
    ]


@dataclass(frozen=True)
class RemotePart:
    """Describe what a retriever actor holds, as ``CompositeRetriever`` asks for it."""

    actor: Any
    first_row: int
    rows: int
    left: int
    dim: int


class RetrieverWorker:
    """Hold some shards of a database in memory and answer queries over them.

    Args:
        database: The database; only files of these shards are brought here.
        shards: Consecutive shards.
        effort: How hard they are searched.
    """

    def __init__(self, database: Database, shards: Sequence[int], effort: SearchEffort) -> None:
        self._retriever = database.retriever(shards, effort=effort)

    def answer(self, method: str, *arguments: Any) -> Any:
        """Call a method of the retriever over these rows."""
        return getattr(self._retriever, method)(*arguments)
