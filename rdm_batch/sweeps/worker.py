"""A worker that makes shards of all cells of one model: it is started once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from rdm_batch.generation.head_worker import HeadWorker
from rdm_batch.generation.plan import ShardRange
from rdm_batch.generation.renderer import ContextSource, start_model_thread
from rdm_batch.inputs.weights import OpenedCheckpoint
from rdm_batch.specs.job import JobSpec
from rdm_batch.storage.manifest import SampleSetHeader, ShardEntry
from rdm_batch.sweeps.lookups import SharedLookups


@dataclass(frozen=True)
class CellWork:
    """Say what a worker must know of a cell.

    Args:
        spec: Its job.
        model: Its head, found.
        header: Of its sample set.
        context_dim: Width of its database's embeddings.
        source: Position of what its samples are conditioned on.
    """

    spec: JobSpec
    model: OpenedCheckpoint
    header: SampleSetHeader
    context_dim: int
    source: int


@dataclass(frozen=True)
class CellShard:
    """One shard of one cell.

    Args:
        cell: Position of the cell among those of the worker.
        name: Of the cell.
        shard: The samples.
        run_id: Recorded in the shard's entry.
    """

    cell: int
    name: str
    shard: ShardRange
    run_id: str

    def __str__(self) -> str:
        return f"cell {self.name} shard {self.shard.index}"


class SweepWorker:
    """Hold the heads of some cells, each loaded when its first shard comes; they take turns.

    A cell's shards are made by its own ``HeadWorker``, as those of a job of its own are.

    Args:
        cells: What it may be asked for; of one model.
        device: What it reserved, ``cpu`` or ``cuda``.
        number: Number of this worker.
    """

    def __init__(self, cells: Sequence[CellWork], device: str, number: int) -> None:
        self._cells = cells
        self._device = device
        self._number = number
        self._heads: dict[int, HeadWorker] = {}
        self._sources: dict[int, ContextSource] = {}
        self._lock = threading.Lock()
        self._model_thread = start_model_thread(cells[0].spec.model.cpu_threads)

    def make(self, item: CellShard, sources: Sequence[ContextSource]) -> ShardEntry:
        """Make one shard of a cell and commit it.

        Args:
            item: The shard.
            sources: What the cells are conditioned on; the first of each is kept, with what it
                has looked up.
        """
        cell = self._cells[item.cell]
        with self._lock:
            source = self._sources.get(cell.source)
            if source is None:
                given = sources[cell.source]
                source = ContextSource(SharedLookups(given.conditioner), given.retriever)
                self._sources[cell.source] = source
            head = self._heads.get(item.cell)
            if head is None:
                head = self._heads[item.cell] = HeadWorker(
                    cell.spec,
                    cell.model,
                    cell.header,
                    cell.context_dim,
                    self._device,
                    self._number,
                    self._model_thread,
                )
        return head.make(item.shard, source, item.run_id)

    def drawn(self) -> dict[tuple[int, int], int]:
        """Count the samples drawn of each cell's shards that are not committed yet."""
        heads = dict(self._heads)
        return {
            (cell, shard): count
            for cell, head in heads.items()
            for shard, count in head.drawn().items()
        }
