"""Open a database that lies in a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.database import DatabaseManifest, check_files, read_manifest
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.retrieval.shard import open_shard
from rdm_batch.retrieval.tables import read_counts


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
    shards: Sequence[int] | None = None,
    *,
    manifest: DatabaseManifest | None = None,
    leaves_to_search: int | None = None,
    reorder: int | None = None,
    num_threads: int = 1,
) -> CompositeRetriever:
    """Open a local database folder, or consecutive shards of it, for searching.

    Args:
        root: The folder.
        shards: Numbers of the shards. None: all.
        manifest: The manifest, when already read.
        leaves_to_search: As :func:`open_shard`.
        reorder: As :func:`open_shard`.
        num_threads: As :func:`open_shard`.

    Raises:
        DatabaseError: There is no complete database, a file is damaged, or the shards do not
            follow each other.
    """
    manifest = manifest or read_manifest(root)
    numbers = range(len(manifest.shards)) if shards is None else shards
    opened = [
        open_shard(
            root,
            number,
            manifest=manifest,
            leaves_to_search=leaves_to_search,
            reorder=reorder,
            num_threads=num_threads,
        )
        for number in numbers
    ]
    return CompositeRetriever(opened, first_row=manifest.shards[numbers[0]].first_row)
