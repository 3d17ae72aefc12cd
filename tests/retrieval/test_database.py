from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.files import find_damage_in
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.retrieval.database import (
    DatabaseManifest,
    StoredFile,
    check_files,
)
from rdm_batch.retrieval.index import IndexSettings
from rdm_batch.retrieval.shard import open_shard
from rdm_batch.retrieval.tables import write_thumbnails

Vectors = Callable[..., np.ndarray]
WriteDatabase = Callable[..., DatabaseManifest]

TREE = IndexSettings(kind="tree_ah")


def test_a_written_database_is_read_back(
    vectors: Vectors, write_database: WriteDatabase, tmp_path: Path
) -> None:
    manifest = write_database(tmp_path, vectors(200).astype(np.float16), shards=3, settings=TREE)
    assert Database.open(str(tmp_path)).manifest == manifest
    check_files(tmp_path, manifest.files(), digests=True)
    stored = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert stored == {file.path for file in manifest.files()} | {"database.json"}
    assert all(shard.recall_at_20 is not None for shard in manifest.shards)


@pytest.mark.parametrize("kind", ["embeddings", "thumbnails", "index"])
def test_truncated_files_are_found_before_they_are_opened(
    vectors: Vectors, write_database: WriteDatabase, tmp_path: Path, kind: str
) -> None:
    manifest = write_database(tmp_path, vectors(300), settings=TREE)
    damaged = [file for file in manifest.files() if file.path.startswith(kind)]
    assert damaged
    for file in damaged:
        path = tmp_path / file.path
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(DatabaseError, match=f"{file.path}: has {len(content) - 1:,} bytes"):
            open_shard(tmp_path, 0, manifest=manifest)
        path.unlink()
        with pytest.raises(DatabaseError, match=f"{file.path}: is missing"):
            open_shard(tmp_path, 0, manifest=manifest)
        path.write_bytes(content)
    open_shard(tmp_path, 0, manifest=manifest)


def test_altered_files_are_found_by_digest(
    vectors: Vectors, write_database: WriteDatabase, tmp_path: Path
) -> None:
    manifest = write_database(tmp_path, vectors(300), settings=TREE)
    path = tmp_path / "index/shard-00000/hashed_dataset.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert find_damage_in(tmp_path, manifest.files()) == []
    with pytest.raises(DatabaseError, match="other content than its digest"):
        check_files(tmp_path, manifest.files(), digests=True)


def test_an_unfinished_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=r"no database\.json"):
        Database.open(str(tmp_path))


def edit(root: Path, **changes: object) -> None:
    path = root / "database.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 8}, "digest .* for other content"),
        ({"rows": 49}, "shards hold 50 rows, the manifest says 49"),
        ({"surprise": 1}, "surprise: is not a field"),
        ({"shards": []}, "shards: "),
        ({"format": "other"}, "format: "),
    ],
)
def test_an_edited_manifest_is_refused(
    vectors: Vectors,
    write_database: WriteDatabase,
    tmp_path: Path,
    changes: dict[str, object],
    message: str,
) -> None:
    write_database(tmp_path, vectors(50))
    edit(tmp_path, **changes)
    with pytest.raises(DatabaseError, match=message):
        Database.open(str(tmp_path))


def test_a_manifest_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "database.json").write_text('{"rows": ')
    with pytest.raises(DatabaseError, match="its JSON is damaged"):
        Database.open(str(tmp_path))


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a\\..\\x"])
def test_files_outside_the_database_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="relative path inside the database"):
        StoredFile(path=path, num_bytes=1, sha256="0" * 64)


def test_non_finite_stored_rows_are_refused_on_opening(
    vectors: Vectors, write_database: WriteDatabase, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rdm_batch.retrieval.database import stored_file
    from tests.job_kit import write_manifest

    rows = vectors(60)
    manifest = write_database(tmp_path, rows)
    path = tmp_path / "embeddings/shard-00000.parquet"
    rows[17, 3] = np.nan
    table = pq.read_table(path)
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 16)
    pq.write_table(table.set_column(1, "embedding", values), path)
    shard = manifest.shards[0].model_copy(update={"embeddings": stored_file(tmp_path, path)})
    write_manifest(tmp_path, manifest.model_copy(update={"shards": (shard,)}))
    with pytest.raises(DatabaseError, match="row 17 holds NaN"):
        open_database(tmp_path)


def test_nothing_half_written_has_a_shards_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(_: object, where: Path, **__: object) -> None:
        where.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("rdm_batch.retrieval.tables.pq.write_table", broken_off)
    path = tmp_path / "thumbnails" / "shard-00000.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_thumbnails(path, 0, [b"png"])
    assert list(path.parent.iterdir()) == []
