"""Retriever actors, each with its slice of the database, and the client that merges them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from jaxtyping import Float32, Int64

from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.merge import Neighbors, merge_top_k
from rdm_batch.retrieval.shard import open_shard

_CALLS_AT_ONCE = 4

RESTARTS = 5
"""How often Ray brings a lost actor back, and repeats a lost call, before the job fails.

Everything an actor does can be done twice without harm (design D2), so repeating is safe;
the bound keeps a call that kills every actor it meets from going on forever.
"""


class RetrieverActor:
    """Hold some shards of a database in memory and answer queries over them.

    ``start_retrievers`` makes actors of it.
    """

    def __init__(
        self,
        database: Database,
        shards: Sequence[int],
        leaves_to_search: int | None,
        reorder: int | None,
    ) -> None:
        root = database.root(shards)
        self._shards = [
            open_shard(
                root,
                number,
                manifest=database.manifest,
                leaves_to_search=leaves_to_search,
                reorder=reorder,
            )
            for number in shards
        ]
        self._rows = sum(shard.rows for shard in self._shards)

    def ready(self) -> None:
        """Return once the shards are in memory."""

    def search(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Find the nearest rows of each query among this actor's shards."""
        parts = [shard.search(queries, min(k, shard.rows)) for shard in self._shards]
        return merge_top_k(parts, min(k, self._rows))

    def search_exactly(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Do the same by an exact scan, to judge the index."""
        parts = []
        for shard in self._shards:
            rows, scores = exact_top_k(shard.embeddings, queries, min(k, shard.rows))
            embeddings = shard.embeddings[rows].astype(np.float32)
            parts.append(Neighbors(rows + shard.first_row, scores, embeddings))
        return merge_top_k(parts, min(k, self._rows))

    def fetch(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """Give the stored embeddings of rows this actor holds."""
        rows = np.empty((len(ids), self._shards[0].dim), dtype=np.float32)
        for shard in self._shards:
            mine = (ids >= shard.first_row) & (ids < shard.first_row + shard.rows)
            rows[mine] = shard.fetch(ids[mine])
        return rows

    def thumbnails(self, ids: Int64[np.ndarray, " n"]) -> list[bytes]:
        """Give the thumbnails of rows this actor holds, as PNG files."""
        images: dict[int, bytes] = {}
        for shard in self._shards:
            mine = np.flatnonzero((ids >= shard.first_row) & (ids < shard.first_row + shard.rows))
            images |= dict(zip(mine.tolist(), shard.thumbnails(ids[mine]), strict=True))
        return [images[position] for position in range(len(ids))]


class ClusterRetriever:
    """Ask every retriever actor in one call each, and merge exactly.

    Implements the ``Retriever`` protocol; pickles, so head actors receive it as it is.

    Args:
        actors: The actors, in the order of the rows they hold.
        first_rows: First row id of each actor.
        rows: Rows of the whole database.
        dim: Width of an embedding.
    """

    def __init__(
        self, actors: Sequence[Any], first_rows: Sequence[int], rows: int, dim: int
    ) -> None:
        self.actors = list(actors)
        self._first_rows = list(first_rows)
        self._rows = rows
        self._dim = dim

    @property
    def rows(self) -> int:
        """Rows of the database."""
        return self._rows

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._dim

    def wait_until_ready(self) -> None:
        """Return once every actor has its shards in memory."""
        ray.get([actor.ready.remote() for actor in self.actors])

    def search(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Find the k nearest rows of each query by cosine similarity."""
        return merge_top_k(ray.get([a.search.remote(queries, k) for a in self.actors]), k)

    def search_exactly(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Find them by exact scans."""
        return merge_top_k(ray.get([a.search_exactly.remote(queries, k) for a in self.actors]), k)

    def fetch(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """Give the stored (not normalized) embeddings of rows."""
        rows = np.empty((len(ids), self._dim), dtype=np.float32)
        parts = self._by_actor(ids)
        calls = [actor.fetch.remote(ids[places]) for actor, places in parts]
        for (_, places), found in zip(parts, ray.get(calls), strict=True):
            rows[places] = found
        return rows

    def thumbnails(self, ids: Int64[np.ndarray, " n"]) -> list[bytes]:
        """Give the thumbnails of rows as PNG files."""
        images: dict[int, bytes] = {}
        parts = self._by_actor(ids)
        calls = [actor.thumbnails.remote(ids[places]) for actor, places in parts]
        for (_, places), found in zip(parts, ray.get(calls), strict=True):
            images |= dict(zip(places.tolist(), found, strict=True))
        return [images[place] for place in range(len(ids))]

    def _by_actor(self, ids: Int64[np.ndarray, " n"]) -> list[tuple[Any, np.ndarray]]:
        owners = np.searchsorted(self._first_rows, ids, side="right") - 1
        return [
            (self.actors[number], np.flatnonzero(owners == number))
            for number in np.unique(owners).tolist()
        ]


def start_retrievers(
    database: Database,
    num_actors: int | None,
    leaves_to_search: int | None,
    reorder: int | None,
    num_cpus: float,
) -> ClusterRetriever:
    """Spread a database's shards over actors; they load in the background.

    Args:
        database: What they search.
        num_actors: Actors to start. None: one for each shard; more than shards are not used.
        leaves_to_search: Search effort. None: as built.
        reorder: Candidates rescored per query. None: as built.
        num_cpus: CPUs reserved per actor.
    """
    manifest = database.manifest
    count = min(num_actors or len(manifest.shards), len(manifest.shards))
    groups = [part.tolist() for part in np.array_split(np.arange(len(manifest.shards)), count)]
    actor: Any = ray.remote(
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
        max_concurrency=_CALLS_AT_ONCE,
        num_cpus=num_cpus,
        scheduling_strategy="SPREAD",
    )(RetrieverActor)
    actors = [actor.remote(database, group, leaves_to_search, reorder) for group in groups]
    first_rows = [manifest.shards[group[0]].first_row for group in groups]
    return ClusterRetriever(actors, first_rows, manifest.rows, manifest.dim)
