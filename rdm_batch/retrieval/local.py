"""Open a database that lies in a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.database import DatabaseManifest, read_manifest
from rdm_batch.retrieval.shard import open_shard


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
