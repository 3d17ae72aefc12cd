"""Exact search by streaming: blocks of rows past all queries, each block read once.

A block is a range of rows of one shard, and the unit of work and of resuming. What comes of blocks
is merged, in any order. On a GPU the product of a block with all queries is computed there; which
pairs may matter is decided within the bound of float32 either way, and their scores in float64 on
the CPU, so that both give the same neighbors to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64

from rdm_batch.backends import multiplying
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.retrieval.embeddings import unit_rows
from rdm_batch.retrieval.exact import ExactScan, Select, score_slack
from rdm_batch.retrieval.merge import order_by_score

BLOCK_ROWS = 1 << 18
"""Rows of a block, at most: a quarter of a GB of width 512."""
READ_ROWS = 8_192
"""Rows that are in memory at a time."""


@dataclass(frozen=True)
class RowBlock:
    """Consecutive rows of one shard.

    Attributes:
        number: Position among all blocks of the database.
        shard: Number of the shard.
        start: First row, counted within the shard.
        stop: One past the last.
    """

    number: int
    shard: int
    start: int
    stop: int


def blocks_of(manifest: DatabaseManifest) -> list[RowBlock]:
    """Cut all shards of a database into blocks, in order."""
    block_rows = BLOCK_ROWS
    ranges = [
        (number, start, min(start + block_rows, shard.rows))
        for number, shard in enumerate(manifest.shards)
        for start in range(0, shard.rows, block_rows)
    ]
    return [RowBlock(number, *part) for number, part in enumerate(ranges)]


def scan_for(queries: Float32[np.ndarray, "n dim"], k: int, device: str) -> ExactScan:
    """Begin an exact search that multiplies on a device, ``cpu`` or ``cuda``."""
    select: Select | None = None
    if device != "cpu":
        select = TorchSelect(unit_rows(queries), device)
    return ExactScan(queries, k, select)


class TorchSelect:
    """Multiply with PyTorch, all queries on the device; see ``Select``.

    Args:
        unit_queries: All queries, normalized.
        device: Where to multiply.
    """

    def __init__(self, unit_queries: Float32[np.ndarray, "n dim"], device: str) -> None:
        self._device = device
        self._queries = torch.from_numpy(unit_queries).to(device)
        self._slack = score_slack(unit_queries.shape[1])
        self._block: Float32[np.ndarray, "rows dim"] | None = None
        self._rows = self._queries[:0]

    def __call__(
        self,
        part: slice,
        unit: Float32[np.ndarray, "rows dim"],
        threshold: Float32[np.ndarray, " n"],
        k: int,
    ) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        """Name the pairs that may matter."""
        if self._block is not unit:
            # The same array for every range of queries: it travels once.
            self._block, self._rows = unit, torch.from_numpy(unit).to(self._device)
        with multiplying():
            rough = self._queries[part] @ self._rows.T
        least = torch.from_numpy(threshold).to(self._device)
        if len(unit) >= k and np.isneginf(threshold).any():
            least = torch.maximum(least, rough.topk(k, dim=1).values[:, -1])
        pairs = (rough >= (least - self._slack)[:, None]).nonzero().cpu().numpy()
        return pairs[:, 0], pairs[:, 1]


@dataclass(frozen=True)
class Best:
    """Hold the best rows of each query that were found so far.

    Attributes:
        ids: Row ids, best first; -1 where fewer were found.
        scores: Their cosine similarities; minus infinity there.
    """

    ids: Int64[np.ndarray, "n k"]
    scores: Float32[np.ndarray, "n k"]

    @classmethod
    def none(cls, queries: int, k: int) -> Best:
        """Begin with nothing."""
        return cls(np.full((queries, k), -1), np.full((queries, k), -np.inf, np.float32))

    def merge(self, other: Best) -> Best:
        """Keep the best of two disjoint parts of a database; the order does not matter."""
        ids = np.concatenate([self.ids, other.ids], axis=1)
        scores = np.concatenate([self.scores, other.scores], axis=1)
        order = order_by_score(ids, scores)[:, : self.ids.shape[1]]
        return Best(
            np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
        )
