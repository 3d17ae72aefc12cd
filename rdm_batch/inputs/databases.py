"""Retrieval databases: found anywhere once, checked, and opened where they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8

from rdm_batch.errors import DatabaseError
from rdm_batch.files import Damage, file_sha256, user_cache, written_aside
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.database import (
    MANIFEST_NAME,
    DatabaseManifest,
    StoredFile,
    check_files,
    parse_manifest,
    refuse_damage,
)
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.index import PARTITIONED, check_index_folder
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.retrieval.rows import shard_rows
from rdm_batch.retrieval.shard import open_shard
from rdm_batch.retrieval.tables import read_counts, read_removed, read_thumbnails
from rdm_batch.specs.database import EngineChoice
from rdm_batch.storage.object_store import local_path, open_store, redact
from rdm_batch.storage.png import decode_png

_READ_AT_ONCE_BYTES = 256 << 20
"""Local databases up to this size are read before the job starts; of larger ones every
retriever checks the rows it loads."""


@dataclass(frozen=True)
class Database:
    """A complete database, found once: where it is and what its manifest says.

    Small and pickled as it is: whoever receives it opens files of it without asking again.

    Attributes:
        uri: Where it is, a path or ``s3://``.
        manifest: Read and checked.
    """

    uri: str
    manifest: DatabaseManifest

    @classmethod
    def open(cls, uri: str) -> Database:
        """Find a database, wherever it is, and read its manifest.

        Raises:
            DatabaseError: There is no complete database, or the manifest is damaged.
        """
        store = open_store(uri, DatabaseError)
        return cls(uri, parse_manifest(store.read_if_there(MANIFEST_NAME), redact(uri)))

    def check_stored_files(self, action: str = "copy the database again or rebuild it") -> None:
        """Compare the sizes of all stored files with the manifest, without reading them.

        Args:
            action: What the user can do about a damaged file.

        Raises:
            DatabaseError: A file is missing or has another size; the first is named.
        """
        files = self.manifest.files()
        damage = open_store(self.uri, DatabaseError).find_damage(files)
        refuse_damage(redact(self.uri), damage, len(files), action)

    def check(self) -> None:
        """Check that every file is there, and of a small local database what the files hold.

        Raises:
            DatabaseError: It is incomplete or damaged, or holds rows without a direction.
        """
        self.check_stored_files()
        size = sum(shard.row_bytes.num_bytes for shard in self.manifest.shards)
        if not self.uri.startswith("s3://") and size <= _READ_AT_ONCE_BYTES:
            self._check_content()

    def _check_content(self) -> None:
        root, manifest = local_path(self.uri, error=DatabaseError), self.manifest
        check_files(root, manifest.files(), digests=True)
        for number, shard in enumerate(manifest.shards):
            path = root / shard.row_bytes.path
            check_embeddings(shard_rows(root, shard, manifest), str(path), shard.first_row)
            if shard.index.resolve(shard.rows).kind in PARTITIONED:
                names = [Path(file.path).name for file in shard.index_files]
                check_index_folder(root / f"index/shard-{number:05d}", names)

    def root(self, shards: Sequence[int], with_images: bool = False) -> Path:
        """Give a local folder that holds at least some shards.

        A local database is used where it lies. Of a remote one only the files of these shards
        are downloaded (and cached); a folder of links gives them their places.

        Args:
            shards: Numbers of the shards that will be opened.
            with_images: Whether the pixels of their rows will be read.
        """
        if not self.uri.startswith("s3://"):
            return local_path(self.uri, error=DatabaseError)
        key = hashlib.sha256(f"{self.uri} {self.manifest.digest}".encode()).hexdigest()[:32]
        root = user_cache() / f"database-{key}"
        for number in shards:
            shard = self.manifest.shards[number]
            for file in shard.files() if with_images else shard.searched_files():
                target = local_path(f"{self.uri}/{file.path}", error=DatabaseError, recorded=file)
                # Several actors of a machine may do this at once. Not in the link's own folder,
                # for that of an index must hold nothing but the index.
                with written_aside(root / file.path, root) as aside:
                    aside.symlink_to(target)
        return root

    def retriever(
        self,
        shards: Sequence[int] | None = None,
        *,
        effort: SearchEffort | None = None,
        num_threads: int = 1,
    ) -> CompositeRetriever:
        """Open the database, or consecutive shards of it, for searching in this process.

        Args:
            shards: Numbers of the shards. None: all.
            effort: As :func:`open_shard`.
            num_threads: As :func:`open_shard`.

        Raises:
            DatabaseError: A file is damaged, or the shards do not follow each other.
        """
        numbers = range(len(self.manifest.shards)) if shards is None else shards
        root, removed = self.root(numbers), self.removed()
        opened = [
            open_shard(
                root,
                number,
                manifest=self.manifest,
                effort=effort,
                num_threads=num_threads,
                removed=removed,
            )
            for number in numbers
        ]
        return CompositeRetriever(opened, first_row=self.manifest.shards[numbers[0]].first_row)

    def check_images(self, field: str) -> None:
        """Refuse a database that does not keep the pixels of its rows.

        Args:
            field: Names what asks for them in the message.

        Raises:
            DatabaseError: A shard has none.
        """
        lacking = sum(shard.images is None for shard in self.manifest.shards)
        if lacking:
            total = len(self.manifest.shards)
            raise DatabaseError(
                field,
                f"{redact(self.uri)} does not keep the pixels of its rows"
                + (f" ({lacking:,} of {total:,} shards)" if lacking < total else ""),
                "a database built with --store-images SIZE",
                "build it again with --store-images, or name another",
            )

    def images(self, ids: Int64[np.ndarray, " n"]) -> list[UInt8[np.ndarray, "side side 3"]]:
        """Read the pixels of rows, as ``--store-images`` kept them.

        Args:
            ids: The rows.

        Raises:
            DatabaseError: A row does not exist, pixels are not kept, or a file is damaged.
        """
        self.check_row_ids(ids, f"pictures of {redact(self.uri)}")
        self.check_images("pictures")
        found: dict[int, UInt8[np.ndarray, "side side 3"]] = {}
        for number, shard in enumerate(self.manifest.shards):
            inside = (ids >= shard.first_row) & (ids < shard.first_row + shard.rows)
            here = np.unique(ids[inside])
            if not len(here) or shard.images is None:
                continue
            path = self.root([number], with_images=True) / shard.images.path
            files = read_thumbnails(path, here - shard.first_row)
            for row, file in zip(here.tolist(), files, strict=True):
                found[row] = decode_png(file, f"{path}, row {row}")
        return [found[row] for row in ids.tolist()]

    def check_row_ids(self, ids: Int64[np.ndarray, " n"], where: str) -> None:
        """Refuse rows that the database does not have.

        Args:
            ids: The rows.
            where: Names them in the message.

        Raises:
            DatabaseError: A row does not exist; the first is named.
        """
        outside = ids[(ids < 0) | (ids >= self.manifest.rows)]
        if outside.size:
            raise DatabaseError(
                where,
                f"row id {int(outside[0])} ({outside.size:,} of {ids.size:,} ids)",
                f"0 <= id < {self.manifest.rows:,}, the rows of {redact(self.uri)}",
            )

    def proposal(self) -> Proposal | None:
        """Load the proposal distribution; None when the database was built without.

        Raises:
            DatabaseError: The file is damaged, or names rows the database does not have.
        """
        if self.manifest.proposal is None:
            return None
        proposal = Proposal(*read_counts(self._checked(self.manifest.proposal)))
        proposal.check_rows(self.manifest.rows)
        return proposal.without(self.removed())

    def removed(self) -> Int64[np.ndarray, " gone"]:
        """Give the rows that no search finds any more, rising; none where none was removed.

        Raises:
            DatabaseError: The file is damaged, or names rows the database does not have.
        """
        if self.manifest.removed is None:
            return np.empty(0, np.int64)
        return read_removed(self._checked(self.manifest.removed), self.manifest.rows)

    def _checked(self, file: StoredFile) -> Path:
        """Find a small file, whose content is compared with its digest before it is used."""
        path = local_path(f"{self.uri}/{file.path}", error=DatabaseError, recorded=file)
        if file_sha256(path) != file.sha256:
            altered = Damage(file.path, "has other content than its digest says")
            refuse_damage(redact(self.uri), [altered], len(self.manifest.files()))
        return path


def engine_for(asked: EngineChoice, manifest: DatabaseManifest) -> Literal["scann", "exact"]:
    """Say what searches a database: what was asked for, else the index where every shard has one.

    Args:
        asked: What was asked for.
        manifest: Of the database.
    """
    if asked != "auto":
        return asked
    kinds = {shard.index.resolve(shard.rows).kind for shard in manifest.shards}
    return "exact" if "none" in kinds else "scann"


def open_database(
    uri: str | Path, *, leaves_to_search: int | None = None, reorder: int | None = None
) -> CompositeRetriever:
    """Open a database for searching in this process.

    Args:
        uri: A path, ``s3://...``, or ``package://...`` for one that ships here.
        leaves_to_search: Partitions scanned per query. None: as built.
        reorder: Candidates rescored exactly per query. None: as built.

    Returns:
        What answers ``search(queries, k)`` with row ids, cosine similarities and embeddings, and
        ``fetch(ids)``, ``thumbnails(ids)``.

    Raises:
        DatabaseError: There is no complete database, or a file of it is damaged.
    """
    effort = SearchEffort(leaves_to_search=leaves_to_search, reorder=reorder)
    return Database.open(str(uri)).retriever(effort=effort)
