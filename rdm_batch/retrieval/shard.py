"""Search one shard of a database in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.database import DatabaseManifest, check_files
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.exact import check_k, exact_top_k, score_slack
from rdm_batch.retrieval.index import ShardIndex, build_index, load_index
from rdm_batch.retrieval.merge import Neighbors
from rdm_batch.retrieval.residency import anonymous_bytes, refuse_without_room, resident_bytes_of
from rdm_batch.retrieval.row_records import RowRecord, read_records
from rdm_batch.retrieval.rows import shard_rows
from rdm_batch.retrieval.score_kernels import stored_rows, tell_of_numpy
from rdm_batch.retrieval.scores import best_candidates, directions_of
from rdm_batch.retrieval.tables import read_thumbnails

SPARE_CANDIDATES = 16


class ShardSearcher:
    """Find neighbors among the rows of one shard.

    The index proposes more candidates than asked for; these are scored exactly from the
    stored embeddings and ordered by (-score, id). Queries for which the candidates cannot
    be trusted to be complete are answered by an exact scan instead: in a scanned shard,
    when rounding could have hidden a row that belongs (many equal rows); in a partitioned
    shard, when the searched leaves held fewer than k rows. Scanned shards are therefore
    exact, and no shard ever answers with a row it did not find.

    Args:
        embeddings: Raw rows of the shard, in memory or mapped.
        index: Search structure over the same rows. None: every search is an exact scan.
        first_row: Global id of the first row.
        thumbnails: Thumbnails table, None when the database stores none.
        where: Description used in messages.
        removed: Positions of rows that no search finds any more.
        resident_bytes: Memory that opening rows and index took, without files that are mapped.
        table: Table of what is known of the rows. None: nothing is.
    """

    def __init__(
        self,
        embeddings: Float[np.ndarray, "rows dim"],
        index: ShardIndex | None,
        first_row: int = 0,
        thumbnails: Path | None = None,
        where: str = "shard",
        removed: Int64[np.ndarray, " gone"] | None = None,
        resident_bytes: int = 0,
        table: Path | None = None,
    ) -> None:
        self._embeddings = embeddings
        self._stored = stored_rows(embeddings)
        self._removed = np.empty(0, np.int64) if removed is None else removed
        self._index = index
        self._thumbnails = thumbnails
        self._where = where
        self.first_row = first_row
        self._resident_bytes = resident_bytes
        self._table = table

    @property
    def rows(self) -> int:
        """Rows of the shard."""
        return int(self._embeddings.shape[0])

    @property
    def left(self) -> int:
        """Rows of the shard that a search may find."""
        return self.rows - len(self._removed)

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return int(self._embeddings.shape[1])

    def search(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Find the k nearest rows of each query by cosine similarity.

        Args:
            queries: Query embeddings; normalized here.
            k: Number of neighbors, in 1..rows.

        Raises:
            DatabaseError: k is out of range, the width differs, or a query is not finite
                or has norm zero.
        """
        check_k(k, self.rows - len(self._removed), self._where)
        check_dim(queries.shape[1], self.dim, self._where)
        asked = directions_of(queries, f"queries to {self._where}")
        if self._index is None:
            return self.search_exactly(queries, k)
        kind = self._index.settings.kind
        wanted = k + SPARE_CANDIDATES
        if kind == "tree_soar":
            # ScaNN has ordered them by their codes alone.
            wanted = max(self._index.settings.reorder, wanted)
        count = min(self.rows, wanted + len(self._removed))
        positions, rough = self._index.candidates(asked.unit, count)
        if positions.shape[1] < k:
            return self.search_exactly(queries, k)
        if len(self._removed):
            rough = np.where(np.isin(positions, self._removed), np.float32(np.nan), rough)
        found, complete = best_candidates(
            asked, self._stored, positions, rough, k, self._where, self.first_row
        )
        scanned = kind == "brute_force" and count < self.rows
        if scanned or not complete:
            doubtful = found.scores[:, -1] == -np.inf
            if scanned:
                # A row that is not a candidate scores at most the worst candidate's rough score.
                worst = np.where(np.isfinite(rough), rough, np.inf).min(axis=1, initial=np.inf)
                doubtful |= worst + score_slack(self.dim) >= found.scores[:, -1]
            if doubtful.any():
                positions, scores = self._scan(queries[doubtful], k)
                found.positions[doubtful], found.scores[doubtful] = positions, scores
                found.embeddings[doubtful] = self._embeddings[positions]
        if self.first_row:
            np.add(found.positions, self.first_row, out=found.positions)
        return Neighbors(*found, looked_at=True)

    def search_exactly(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        """Find them by an exact scan, to judge the index.

        Raises:
            DatabaseError: k is out of range, or a query is not finite or has norm zero.
        """
        positions, scores = self._scan(queries, k)
        rows = self._embeddings[positions].astype(np.float32)
        return Neighbors(ids=positions + self.first_row, scores=scores, embeddings=rows)

    def _scan(
        self, queries: Float32[np.ndarray, "n dim"], k: int
    ) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
        return exact_top_k(self._embeddings, queries, k, self._removed)

    def resident_bytes(self) -> int:
        """Say what opening it took of the memory, without files that are mapped."""
        return self._resident_bytes

    def fetch(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """Give the stored embeddings of rows by global id.

        Raises:
            DatabaseError: An id lies outside this shard.
        """
        rows: Float32[np.ndarray, "n dim"] = self._embeddings[self._positions(ids)].astype(
            np.float32
        )
        return rows

    def thumbnails(self, ids: Int64[np.ndarray, " n"]) -> list[bytes]:
        """Give the thumbnails of rows by global id, as PNG files.

        Raises:
            DatabaseError: An id lies outside this shard, or the database stores none.
        """
        positions = self._positions(ids)
        if self._thumbnails is None:
            raise DatabaseError(
                self._where, "no thumbnails", "", "rebuild the database with thumbnails"
            )
        return read_thumbnails(self._thumbnails, positions)

    def records(self, ids: Int64[np.ndarray, " n"]) -> list[RowRecord]:
        """Read what is known of rows by global id.

        Raises:
            DatabaseError: An id lies outside this shard, or the table cannot be read.
        """
        positions = self._positions(ids)
        if self._table is None:
            raise DatabaseError(self._where, "no table of its rows", "the table of a shard")
        try:
            with self._table.open("rb") as file:
                return read_records(file, positions, str(self._table))
        except OSError as error:
            raise DatabaseError(
                str(self._table),
                f"unreadable ({error.strerror})",
                "a table of rows",
                "copy the database again",
            ) from None

    def _positions(self, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        positions = ids - self.first_row
        outside = (positions < 0) | (positions >= self.rows)
        if outside.any():
            raise DatabaseError(
                self._where,
                f"row id {int(ids[outside][0])} ({int(outside.sum())} of {len(ids)} ids)",
                f"{self.first_row} <= id < {self.first_row + self.rows}",
            )
        return positions


def check_dim(found: int, needed: int, where: str) -> None:
    """Refuse queries of another width than the database's embeddings."""
    if found != needed:
        raise DatabaseError(
            where,
            f"holds {needed}-dimensional embeddings but the queries have {found} dimensions",
            "",
            "query with the encoder that built the database, or rebuild it",
        )


def open_shard(
    root: Path,
    shard: int,
    *,
    manifest: DatabaseManifest,
    effort: SearchEffort | None = None,
    num_threads: int = 1,
    removed: Int64[np.ndarray, " gone"] | None = None,
) -> ShardSearcher:
    """Open one shard of a local database folder for searching.

    The size of every file is checked against the manifest before it is opened: ScaNN ends the
    process on a truncated index.

    Args:
        root: Local database folder.
        shard: Shard number.
        manifest: Its manifest.
        effort: How hard it is searched. None: as built, for pictures.
        num_threads: Threads of one search, at least 1.
        removed: Row ids that no search finds any more, of any shard.

    Raises:
        DatabaseError: The shard does not exist, its files are damaged, or its rows are
            not finite.
    """
    if not 0 <= shard < len(manifest.shards):
        raise DatabaseError(str(root), f"no shard {shard}", f"0 <= shard < {len(manifest.shards)}")
    entry = manifest.shards[shard]
    where = f"{root} shard {shard}"
    check_files(root, entry.files())
    effort = effort or SearchEffort()
    settings = effort.settings_of(entry)
    refuse_without_room(where, resident_bytes_of(entry, manifest, effort))
    before = anonymous_bytes()
    embeddings = shard_rows(root, entry, manifest)
    index = None
    if not effort.exactly and settings.kind != "none":
        if settings.kind == "brute_force":
            check_embeddings(embeddings, where, entry.first_row)
            index = build_index(embeddings, settings, where, num_threads)
        else:
            if settings.kind == "tree_ah":
                check_embeddings(embeddings, where, entry.first_row)
            names = [Path(file.path).name for file in entry.index_files]
            folder = root / f"index/shard-{shard:05d}"
            index = load_index(folder, names, entry.rows, settings, num_threads)
            tell_of_numpy()
    thumbnails = None if entry.thumbnails is None else root / entry.thumbnails.path
    gone = np.empty(0, np.int64)
    if removed is not None:
        here = (removed >= entry.first_row) & (removed < entry.first_row + entry.rows)
        gone = removed[here] - entry.first_row
    resident = max(0, anonymous_bytes() - before)
    table = root / entry.embeddings.path
    return ShardSearcher(
        embeddings, index, entry.first_row, thumbnails, where, gone, resident, table
    )
