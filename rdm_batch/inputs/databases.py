"""Bring databases, or the shards of one that a process needs, to local folders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rdm_batch.errors import DatabaseError
from rdm_batch.files import file_sha256, written_aside
from rdm_batch.retrieval.database import (
    MANIFEST_NAME,
    DatabaseManifest,
    check_files,
    parse_manifest,
    refuse_damage,
)
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.index import check_index_folder
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.retrieval.tables import read_counts, read_embeddings
from rdm_batch.storage.object_store import local_path, open_store, redact

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
        """Find a database and read its manifest.

        Raises:
            DatabaseError: There is no complete database, or the manifest is damaged.
        """
        return cls(uri, fetch_manifest(uri))

    def check_stored_files(self) -> None:
        """Compare sizes with the manifest; see the function of this name."""
        check_stored_files(self.uri, self.manifest)

    def check(self) -> None:
        """Check that every file is there, and of a small local database what the files hold.

        Raises:
            DatabaseError: It is incomplete or damaged, or holds rows without a direction.
        """
        self.check_stored_files()
        size = sum(shard.embeddings.num_bytes for shard in self.manifest.shards)
        if not self.uri.startswith("s3://") and size <= _READ_AT_ONCE_BYTES:
            _check_content(local_path(self.uri, error=DatabaseError), self.manifest)

    def root(self, shards: Sequence[int]) -> Path:
        """Give a local folder that holds at least these shards; see ``database_root``."""
        return database_root(self.uri, self.manifest, shards)

    def proposal(self) -> Proposal | None:
        """Load the proposal distribution; see ``load_proposal``."""
        return load_proposal(self.uri, self.manifest)


def fetch_manifest(uri: str) -> DatabaseManifest:
    """Read the manifest of a database anywhere.

    Raises:
        DatabaseError: There is no complete database, or the manifest is damaged.
    """
    store = open_store(uri, DatabaseError)
    text = store.read_bytes(MANIFEST_NAME) if store.exists(MANIFEST_NAME) else None
    return parse_manifest(text, redact(uri))


def check_stored_files(
    uri: str, manifest: DatabaseManifest, action: str = "copy the database again or rebuild it"
) -> None:
    """Compare the sizes of all stored files with the manifest, without reading them.

    Args:
        uri: The database.
        manifest: Its manifest.
        action: What the user can do about a damaged file.

    Raises:
        DatabaseError: A file is missing or has another size; the first is named.
    """
    files = manifest.files()
    damage = open_store(uri, DatabaseError).find_damage(files)
    refuse_damage(redact(uri), damage, len(files), action)


def _check_content(root: Path, manifest: DatabaseManifest) -> None:
    check_files(root, manifest.files(), digests=True)
    for number, shard in enumerate(manifest.shards):
        path = root / shard.embeddings.path
        rows = read_embeddings(path, shard.rows, manifest.dim, manifest.dtype)
        check_embeddings(rows, str(path), shard.first_row)
        if shard.index.resolve(shard.rows).kind == "tree_ah":
            names = [Path(file.path).name for file in shard.index_files]
            check_index_folder(root / f"index/shard-{number:05d}", names)


def database_root(uri: str, manifest: DatabaseManifest, shards: Sequence[int]) -> Path:
    """Give a local database folder that holds at least the named shards.

    A local database is used where it lies. Of a remote one only the files of these shards
    are downloaded (and cached); a folder of links gives them their places.

    Args:
        uri: The database.
        manifest: Its manifest.
        shards: Shard numbers that will be opened.
    """
    if not uri.startswith("s3://"):
        return local_path(uri, error=DatabaseError)
    from rdm_batch.storage.download import user_cache  # with the client of S3, seldom needed

    key = hashlib.sha256(f"{uri} {manifest.digest}".encode()).hexdigest()[:32]
    root = user_cache() / f"database-{key}"
    for number in shards:
        for file in manifest.shards[number].files():
            link = root / file.path
            target = local_path(f"{uri}/{file.path}", error=DatabaseError)
            # Several actors of a machine may do this at once. Not in the link's own folder,
            # for that of an index must hold nothing but the index.
            with written_aside(link, root) as aside:
                aside.symlink_to(target)
    return root


def load_proposal(uri: str, manifest: DatabaseManifest) -> Proposal | None:
    """Load the proposal distribution of a database; None when it was built without.

    Raises:
        DatabaseError: The file is damaged, or names rows the database does not have.
    """
    if manifest.proposal is None:
        return None
    location = f"{uri}/{manifest.proposal.path}"
    path = local_path(location, error=DatabaseError)
    if file_sha256(path) != manifest.proposal.sha256:
        raise DatabaseError(
            location,
            "has other content than its digest says",
            "the file as the manifest lists it",
            "copy the database again or rebuild it",
        )
    proposal = Proposal(*read_counts(path))
    proposal.check_rows(manifest.rows)
    return proposal
