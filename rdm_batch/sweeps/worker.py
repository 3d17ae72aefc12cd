"""A worker that makes shards of all cells of one model: it is started once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from rdm_batch.generation.head_worker import HeadWorker
from rdm_batch.generation.plan import ShardRange
from rdm_batch.generation.renderer import ContextSource, start_model_thread
from rdm_batch.heads.head import Head, HowDrawn
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

    def shares_head_with(self, other: CellWork) -> bool:
        """Say whether one copy of the networks makes both: of the head, and of a weaker one."""
        return self._networks() == other._networks()

    def _networks(self) -> tuple[object, ...]:
        weaker = self.model.weaker
        # How far it is guided away from is no part of the weaker head.
        named = None if weaker is None else weaker.spec.model_dump(exclude={"scale"})
        return replace(self.model, weaker=None), self.context_dim, named


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
    """Hold the heads of some cells, built around one copy of their networks; they take turns.

    Weights are read, and networks compiled, when the first shard of any cell comes, and once for
    all cells that use the same. A cell's shards are made by its own ``HeadWorker``, as those of a
    job of its own are.

    Args:
        cells: What it may be asked for; of one model.
        device: What it reserved, ``cpu`` or ``cuda``.
        number: Number of this worker.
    """

    def __init__(self, cells: Sequence[CellWork], device: str, number: int) -> None:
        self._cells = cells
        self._device = device
        self._number = number
        self._workers: dict[int, HeadWorker] = {}
        self._heads: dict[int, Head] = {}
        self._peak: float | None = None
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
            worker = self._workers.get(item.cell)
            if worker is None:
                worker = self._workers[item.cell] = HeadWorker(
                    cell.spec,
                    cell.model,
                    cell.header,
                    cell.context_dim,
                    self._device,
                    self._number,
                    self._model_thread,
                    partial(self._head_of, item.cell),
                    self._peak,
                )
                self._peak = worker.peak
        return worker.make(item.shard, source, item.run_id)

    def _head_of(self, cell: int) -> Head:
        """Give the head of a cell; the first to be asked for is built with all that share it."""
        if cell not in self._heads:
            chosen = self._cells[cell]
            alike = [n for n, one in enumerate(self._cells) if one.shares_head_with(chosen)]
            specs = [self._cells[number].spec for number in alike]
            ways = [HowDrawn(spec.sampling, spec.conditioning.editing) for spec in specs]
            heads = chosen.model.load_heads(ways, chosen.context_dim, self._device)
            self._heads.update(zip(alike, heads, strict=True))
        return self._heads[cell]

    def drawn(self) -> dict[tuple[int, int], int]:
        """Count the samples drawn of each cell's shards that are not committed yet."""
        workers = dict(self._workers)
        return {
            (cell, shard): count
            for cell, worker in workers.items()
            for shard, count in worker.drawn().items()
        }
