"""Search a whole database in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.database import DatabaseManifest, check_files, read_manifest
from rdm_batch.retrieval.exact import check_k
from rdm_batch.retrieval.merge import Neighbors, merge_top_k
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.retrieval.shard import ShardSearcher, check_dim, open_shard
from rdm_batch.retrieval.tables import read_counts


class LocalRetriever:
    """Search every shard of a database and merge exactly.

    Args:
        shards: Searchers of disjoint, contiguous row ranges that start at row 0.

    Raises:
        DatabaseError: A shard is missing or given twice.
    """

    def __init__(self, shards: Sequence[ShardSearcher]) -> None:
        self._shards = sorted(shards, key=lambda shard: shard.first_row)
        starts = np.cumsum([0, *(shard.rows for shard in self._shards)])
        if not self._shards or [s.first_row for s in self._shards] != starts[:-1].tolist():
            raise DatabaseError(
                "retriever",
                f"shards that start at rows {[s.first_row for s in self._shards]}",
                "every shard of one database exactly once",
            )
        self._starts = starts

    @property
    def rows(self) -> int:
        """Rows of the database."""
        return int(self._starts[-1])

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._shards[0].dim

    def search(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Find the k nearest rows of each query by cosine similarity.

        Raises:
            DatabaseError: As :meth:`ShardSearcher.search`.
        """
        check_k(k, self.rows, "database")
        check_dim(queries.shape[1], self.dim, "database")
        return merge_top_k([shard.search(queries, min(k, shard.rows)) for shard in self._shards], k)

    def fetch(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """Give the stored (not normalized) embeddings of rows.

        Raises:
            DatabaseError: An id is not a row of the database.
        """
        rows = np.empty((len(ids), self.dim), dtype=np.float32)
        for number, places in self._by_shard(ids):
            rows[places] = self._shards[number].fetch(ids[places])
        return rows

    def thumbnails(self, ids: Int64[np.ndarray, " n"]) -> list[bytes]:
        """Give the thumbnails of rows as PNG files.

        Raises:
            DatabaseError: An id is not a row, or the database stores no thumbnails.
        """
        images: dict[int, bytes] = {}
        for number, places in self._by_shard(ids):
            found = self._shards[number].thumbnails(ids[places])
            images.update(zip(places.tolist(), found, strict=True))
        return [images[place] for place in range(len(ids))]

    def _by_shard(self, ids: Int64[np.ndarray, " n"]) -> list[tuple[int, np.ndarray]]:
        outside = (ids < 0) | (ids >= self.rows)
        if outside.any():
            raise DatabaseError(
                "database",
                f"row id {int(ids[outside][0])} ({int(outside.sum())} of {len(ids)} ids)",
                f"0 <= id < {self.rows:,}",
            )
        owners = np.searchsorted(self._starts, ids, side="right") - 1
        return [(int(number), np.flatnonzero(owners == number)) for number in np.unique(owners)]


def read_proposal(root: Path, manifest: DatabaseManifest) -> Proposal:
    """Read the proposal distribution stored with a local database.

    Raises:
        DatabaseError: The database has none, its file is damaged, or it names rows that
            the database does not have.
    """
    if manifest.proposal is None:
        raise DatabaseError(
            str(root),
            "no proposal distribution",
            "proposal.parquet",
            "rebuild the database with --proposal-from, or draw uniformly with top_m 1",
        )
    check_files(root, [manifest.proposal], digests=True)
    proposal = Proposal(*read_counts(root / manifest.proposal.path))
    proposal.check_rows(manifest.rows)
    return proposal


def open_database(
    root: Path,
    *,
    leaves_to_search: int | None = None,
    reorder: int | None = None,
    num_threads: int = 1,
) -> LocalRetriever:
    """Open every shard of a local database folder; arguments as :func:`open_shard`."""
    manifest = read_manifest(root)
    return LocalRetriever(
        [
            open_shard(
                root,
                number,
                manifest=manifest,
                leaves_to_search=leaves_to_search,
                reorder=reorder,
                num_threads=num_threads,
            )
            for number in range(len(manifest.shards))
        ]
    )
