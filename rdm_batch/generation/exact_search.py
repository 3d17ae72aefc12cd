"""Find the neighbors of a job exactly, ahead of generation, by streaming all rows past its queries.

The queries of a group of shards are collected from its conditioner, which does not yet learn what
they find; every block of rows is read once and searched for all of them, wherever there is room;
then the conditioner is given what was found. What came of finished blocks lies beside the samples
and is never computed again.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np
from jaxtyping import Float32, Int64

from rdm_batch.cluster.pool import Cluster
from rdm_batch.cluster.streamed_search import search_all_rows
from rdm_batch.generation.engines import engine_of
from rdm_batch.generation.modes.mode import Conditioner
from rdm_batch.generation.plan import ShardRange
from rdm_batch.generation.preflight import CheckedJob
from rdm_batch.generation.renderer import ContextSource
from rdm_batch.inputs.databases import Database
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.merge import Neighbors
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.retrieval.streaming import Best
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.storage.object_store import open_store

GROUP_SAMPLES = 1 << 17
"""Samples whose queries are searched in one pass: half a GB of queries of width 512."""
_FOLDER = "_search"
_SAMPLES_AT_ONCE = 4_096


class FoundRetriever:
    """Answer the queries that were searched for with what was found; others by a scan.

    Args:
        rows: The database, without an index.
        places: Place of each query among those searched for, by a digest of its bytes.
        best: What was found.
    """

    def __init__(self, rows: CompositeRetriever, places: dict[bytes, int], best: Best) -> None:
        self._rows = rows
        self._places = places
        self._best = best

    @property
    def rows(self) -> int:
        """Rows of the database."""
        return self._rows.rows

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._rows.dim

    def search(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Give the k nearest rows of each query by cosine similarity, exactly."""
        places = [self._places.get(_digest(query), -1) for query in queries]
        if k > self._best.ids.shape[1] or -1 in places:
            return self._rows.search_exactly(queries, k)
        ids, scores = self._best.ids[places, :k], self._best.scores[places, :k]
        embeddings = self._rows.fetch(ids.reshape(-1)).reshape(len(queries), k, self.dim)
        return Neighbors(ids, scores, embeddings)

    def fetch(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """Give the stored (not normalized) embeddings of rows."""
        return self._rows.fetch(ids)

    def thumbnails(self, ids: Int64[np.ndarray, " n"]) -> list[bytes]:
        """Give the thumbnails of rows as PNG files."""
        return self._rows.thumbnails(ids)


class _Collector:
    """Take queries down, and answer with the first rows, of whom nothing will be kept."""

    def __init__(self, rows: Retriever) -> None:
        self._rows = rows
        self.places: dict[bytes, int] = {}
        self.queries: list[Float32[np.ndarray, " dim"]] = []
        self.k = 0

    @property
    def rows(self) -> int:
        return self._rows.rows

    @property
    def dim(self) -> int:
        return self._rows.dim

    def search(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        self.k = max(self.k, k)
        for query in queries:
            digest = _digest(query)
            if digest not in self.places:
                self.places[digest] = len(self.queries)
                self.queries.append(query.copy())
        shape = len(queries), k
        return Neighbors(
            np.tile(np.arange(k), (len(queries), 1)),
            np.zeros(shape, np.float32),
            np.zeros((*shape, self.dim), np.float32),
        )

    def fetch(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        return self._rows.fetch(ids)

    def thumbnails(self, ids: Int64[np.ndarray, " n"]) -> list[bytes]:
        return self._rows.thumbnails(ids)


def sources(
    cluster: Cluster,
    job: CheckedJob,
    shards: Iterable[ShardRange],
    conditioner: Conditioner,
    retriever: CompositeRetriever,
    progress: Progress,
) -> Iterator[tuple[Iterable[ShardRange], ContextSource]]:
    """Give groups of shards with what their samples are conditioned on.

    All shards at once where an index is asked as they are made; else as many as are searched for
    in one pass over the rows, once that pass is done.

    Args:
        cluster: Where blocks are searched.
        job: The job.
        shards: Those to make, in order.
        conditioner: What conditions their samples.
        retriever: The database, as the job's engine opens it.
        progress: Shows the rows that were searched.
    """
    spec = job.spec
    if engine_of(spec, job.database.manifest) == "scann":
        yield shards, ContextSource(conditioner, retriever)
        return
    size, last = spec.output.shard_size, spec.sampling.num_samples
    per_group = max(1, GROUP_SAMPLES // size)
    for number, group in groupby(shards, lambda shard: shard.index // per_group):
        first = number * per_group * size
        # Of all its samples, also of stored ones: a run that resumes asks for the same.
        found = search_ahead(
            cluster,
            job.database,
            retriever,
            copy.copy(conditioner),
            spec.sampling.seed,
            np.arange(first, min(first + per_group * size, last), dtype=np.int64),
            spec.output.uri,
            progress,
        )
        yield group, ContextSource(copy.copy(conditioner), found)


def search_ahead(
    cluster: Cluster,
    database: Database,
    rows: CompositeRetriever,
    conditioner: Conditioner,
    seed: int,
    indices: Int64[np.ndarray, " samples"],
    output: str,
    progress: Progress,
) -> FoundRetriever:
    """Search for everything that some samples will ask for.

    Args:
        cluster: Where blocks are searched.
        database: The database.
        rows: The same, opened without an index.
        conditioner: What asks; it has looked nothing up, and is not used again.
        seed: Seed of the job.
        indices: The samples, in order.
        output: Sample set beside which finished blocks are kept.
        progress: Shows the rows that were searched.

    Raises:
        DatabaseError: Rows cannot be read, or have no direction.
        ClusterError: A worker was lost more often than it may be brought back.
    """
    collector = _Collector(rows)
    for start in range(0, len(indices), _SAMPLES_AT_ONCE):
        conditioner(SampleNoise(seed, indices[start : start + _SAMPLES_AT_ONCE]), collector)
    if not collector.queries:
        return FoundRetriever(rows, {}, Best.none(0, 0))
    queries, k = np.stack(collector.queries), collector.k
    key = f"{_FOLDER}/samples-{indices[0]:012d}.parquet"
    best = search_all_rows(cluster, database, queries, k, open_store(output), key, progress)
    return FoundRetriever(rows, collector.places, best)


def forget_searches(output: str) -> None:
    """Remove what was kept of finished blocks, once the samples are stored."""
    store = open_store(output)
    for item in store.list_objects(_FOLDER):
        store.delete(item.key)


def _digest(query: Float32[np.ndarray, " dim"]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(query).data, digest_size=16).digest()
