"""Prove that the indexes of a database are what its rows and settings make."""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

from rdm_batch.errors import DatabaseError
from rdm_batch.files import Damage, find_damage_in
from rdm_batch.inputs.databases import Database
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.index import build_index, save_index
from rdm_batch.retrieval.rows import shard_rows
from rdm_batch.retrieval.upper_level import add_upper_level, stored_upper_level
from rdm_batch.storage.object_store import redact


def check_rebuilt(uri: str, progress: Progress) -> list[str]:
    """Build every stored index again and compare it with the stored one, byte for byte.

    Args:
        uri: The database, a path or ``s3://``. Its files should have been checked before.
        progress: Shows the shards.

    Returns:
        What differs, one entry a file.

    Raises:
        DatabaseError: There is no database, a file is damaged, or an index was built by a version
            that could not build the same twice, or by another ScaNN.
    """
    database = Database.open(uri)
    indexed = [
        (number, shard)
        for number, shard in enumerate(database.manifest.shards)
        if shard.index_files
    ]
    for number, shard in indexed:
        if shard.scann != version("scann"):
            found = "ScaNN not recorded" if shard.scann is None else f"ScaNN {shard.scann}"
            raise DatabaseError(
                f"{redact(uri)} shard {number}",
                f"its index was built with {found}",
                f"ScaNN {version('scann')}, which is installed: others make other bytes",
                "install that version, or rebuild the database with this one",
            )
    stage = progress.stage("build again", total=len(indexed), unit="indexes")
    problems = []
    for number, shard in indexed:
        rows = shard_rows(database.root([number]), shard, database.manifest)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            index = build_index(rows, shard.index, uri, os.cpu_count() or 1)
            folder_of = f"index/shard-{number:05d}"
            built = save_index(index, root / folder_of)
            level = stored_upper_level(database.root([number]) / folder_of)
            if level is not None:
                add_upper_level(root / folder_of, level)
            damage = find_damage_in(root, shard.index_files, digests=True)
            listed = {Path(file.path).name for file in shard.index_files}
            damage += [
                Damage(f"{folder_of}/{path.name}", "is made, but not stored")
                for path in built
                if path.name not in listed
            ]
        problems += [f"{damaged} (built again)" for damaged in damage]
        stage.advance()
    stage.finish()
    return problems
