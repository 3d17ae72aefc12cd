"""Search all rows of a database for many queries at once: each block of rows read once, anywhere.

What came of finished blocks is kept in one object, and is never computed again.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from rdm_batch.cluster.pool import Cluster, WorkerNeeds
from rdm_batch.errors import DatabaseError
from rdm_batch.files import UNREADABLE
from rdm_batch.heads.devices import require_device
from rdm_batch.inputs.databases import Database
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.rows import row_blocks
from rdm_batch.retrieval.streaming import READ_ROWS, Best, RowBlock, blocks_of, scan_for
from rdm_batch.storage.object_store import open_store
from rdm_batch.storage.store import Store

_STATE = b"rdm_batch.search"
Item = TypeVar("Item")


def search_all_rows(
    cluster: Cluster,
    database: Database,
    queries: Float32[np.ndarray, "n dim"],
    k: int,
    store: Store,
    key: str,
    progress: Progress,
    *,
    workers: int | None = None,
    on_gpus: bool = True,
    doing: str = "search all rows",
) -> Best:
    """Find the k nearest rows of each query by cosine similarity, exactly.

    Args:
        cluster: Where blocks are searched.
        database: The database; no index of it is opened.
        queries: Query embeddings, not normalized.
        k: Neighbors of each.
        store: Where finished blocks are kept, for a run that resumes.
        key: Name of the object that holds them.
        progress: Shows the rows that were searched.
        workers: Most workers without GPUs. None: one for every CPU there is.
        on_gpus: Whether blocks are searched on GPUs where there are some, one worker on each.
        doing: Names the stage.

    Returns:
        What was found. What is kept of it stays until somebody removes it.

    Raises:
        DatabaseError: Rows cannot be read, or have no direction.
        RdmBatchError: What was kept is damaged; as the store raises.
        ClusterError: A worker was lost more often than it may be brought back.
    """
    blocks = blocks_of(database.manifest)
    state = _State(store, key, _key_of(database, queries, k), len(queries), k)
    missing = [block for block in blocks if block.number not in state.done]
    done = sum(block.stop - block.start for block in blocks if block.number in state.done)
    stage = progress.stage(doing, database.manifest.rows, "rows", done)
    if missing:
        gpus = int(cluster.resources.num_gpus) if on_gpus else 0
        needs = WorkerNeeds(num_gpus=1.0 if gpus else 0.0)
        count = gpus or workers or max(1, int(cluster.resources.num_cpus))
        worker = partial(BlockSearcher, database, needs.device)
        with cluster.workers(worker, min(count, len(missing)), needs) as pool:
            found = pool.map(
                BlockSearcher.search,
                missing,
                where=lambda block: f"shard {block.shard} rows {block.start:,} to {block.stop:,}",
                shared=(queries, k),
            )
            for block, best in found:
                state.add(block, best)
                stage.advance(block.stop - block.start)
    stage.finish()
    return state.best


class BlockSearcher:
    """Search blocks of rows for many queries at once.

    Args:
        database: The database; a block is read from where it is, never the whole.
        device: What multiplies, ``cpu`` or ``cuda``.
        number: Number of this worker.
    """

    def __init__(self, database: Database, device: str, number: int) -> None:
        self._database = database
        self._device = require_device(device)
        self._removed = database.removed()

    def search(self, block: RowBlock, queries: Float32[np.ndarray, "n dim"], k: int) -> Best:
        """Find the best rows of a block for each query."""
        manifest = self._database.manifest
        shard = manifest.shards[block.shard]
        scan = scan_for(queries, k, self._device)
        where = f"{self._database.uri}/{shard.row_bytes.path}"
        with open_store(self._database.uri, DatabaseError).open_read(shard.row_bytes.path) as file:
            read = row_blocks(file, shard, manifest, block.start, block.stop, READ_ROWS, where)
            for start, rows in _read_ahead(read):
                first = shard.first_row + start
                check_embeddings(rows, where, first)
                scan.add(rows, first, self._removed)
        return Best(scan.ids, scan.scores)


class _State:
    """What was found in the blocks that are finished, kept in one object.

    Args:
        store: Where it is kept.
        key: Its name.
        identity: Digest of what is searched for, and in what; another one begins anew.
        queries: Number of queries.
        k: Neighbors of each.
    """

    def __init__(self, store: Store, key: str, identity: str, queries: int, k: int) -> None:
        self._store = store
        self._key = key
        self._identity = identity
        self.done: set[int] = set()
        self.best = Best.none(queries, k)
        data = store.read_if_there(key)
        if data is not None:
            self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            table = pq.read_table(io.BytesIO(data))
            said = (table.schema.metadata or {}).get(_STATE, b"").decode().split(" ")
            if said[0] != self._identity:
                return
            shape = self.best.ids.shape
            ids = table.column("ids").to_numpy().reshape(shape).astype(np.int64)
            scores = table.column("scores").to_numpy().reshape(shape).astype(np.float32)
        except (pa.ArrowException, *UNREADABLE) as error:
            where = self._store.child_uri(self._key)
            raise self._store.error(
                where, f"unreadable ({error})", "what a search kept", "remove it"
            ) from error
        self.done = {int(number) for number in said[1:]}
        self.best = Best(ids, scores)

    def add(self, block: RowBlock, best: Best) -> None:
        """Merge what a block holds, and keep it."""
        self.best = self.best.merge(best)
        self.done.add(block.number)
        said = " ".join([self._identity, *map(str, sorted(self.done))])
        columns = {"ids": self.best.ids.reshape(-1), "scores": self.best.scores.reshape(-1)}
        table = pa.table(columns).replace_schema_metadata({_STATE: said.encode()})
        stream = io.BytesIO()
        pq.write_table(table, stream, compression="zstd")
        self._store.write_bytes(self._key, stream.getvalue())


def _key_of(database: Database, queries: Float32[np.ndarray, "n dim"], k: int) -> str:
    # One that is still being built has none yet.
    rows = database.manifest.digest or database.manifest.content_digest()
    digest = hashlib.sha256(f"{rows} {k} {queries.shape}".encode())
    digest.update(np.ascontiguousarray(queries).data)
    digest.update(str([(b.shard, b.start, b.stop) for b in blocks_of(database.manifest)]).encode())
    return digest.hexdigest()


def _read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Read the next item while this one is worked on."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        waiting = reader.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = reader.submit(next, items, None)
            yield item
