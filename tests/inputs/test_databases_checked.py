from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdm_batch.files import canonical_digest
from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.database import (
    DatabaseManifest,
    stored_file,
)
from rdm_batch.retrieval.index import IndexSettings
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.retrieval.writer import write_shard
from tests.job_kit import DIM, ROWS, write_database, write_manifest
from tests.worlds import World, assert_says, checked, problem_of, problems_of

EMBEDDINGS = "embeddings/shard-00001.parquet"


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of one shard with a partitioned index, which is stored in files."""
    root = tmp_path_factory.mktemp("partitioned")
    other = tmp_path_factory.mktemp("other")
    rows = ShardRows(
        first_row=0,
        embeddings=np.random.default_rng(0).normal(size=(300, DIM)).astype(np.float32),
        item_ids=[str(row) for row in range(300)],
        patch_coords=[None] * 300,
        captions=[None] * 300,
        thumbnails=None,
    )
    shard = write_shard(root, 0, rows, IndexSettings(kind="tree_ah", leaves=4))
    whole = write_database(other)
    changes = {"rows": 300, "shards": (shard,), "proposal": None}
    write_manifest(root, whole.model_copy(update=changes))
    return root


def _rewritten(database: Path, **changes: Any) -> None:
    """Change a manifest as its author could: with a digest that fits."""
    path = database / "database.json"
    content = json.loads(path.read_text()) | changes
    content.pop("digest")
    path.write_text(json.dumps(content | {"digest": canonical_digest(content)}))


def _with_row(database: Path, values: list[float]) -> None:
    """Replace the third row of shard 1, with sizes and digests that fit."""
    path = database / EMBEDDINGS
    table = pq.read_table(path)
    rows = np.array(table.column("embedding").to_pylist(), dtype=np.float32)
    rows[2] = values
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    pq.write_table(table.set_column(1, "embedding", column), path)
    manifest = Database.open(str(database)).manifest
    shard = manifest.shards[1].model_copy(update={"embeddings": stored_file(database, path)})
    write_manifest(database, manifest.model_copy(update={"shards": (manifest.shards[0], shard)}))


def test_a_missing_database_is_named(world: World) -> None:
    message = problem_of(world.job(database__uri="/nowhere/database"))
    assert_says(message, "/nowhere/database", "holds no database.json", "check the path")


def test_a_folder_without_a_manifest_is_no_database(world: World, tmp_path: Path) -> None:
    database = world.copied_database(tmp_path)
    (database / "database.json").unlink()
    message = problem_of(world.job(database__uri=str(database)))
    assert_says(message, str(database), "holds no database.json", "rdm-batch database build")


def test_an_edited_manifest_is_refused(world: World, tmp_path: Path) -> None:
    database = world.copied_database(tmp_path)
    manifest = database / "database.json"
    manifest.write_text(manifest.read_text().replace("random numbers", "photographs"))
    message = problem_of(world.job(database__uri=str(database)))
    assert_says(message, str(manifest), "for other content", "edited or damaged")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": 4}'])
def test_a_manifest_that_is_none_is_refused(world: World, tmp_path: Path, content: str) -> None:
    database = world.copied_database(tmp_path)
    (database / "database.json").write_text(content)
    message = problem_of(world.job(database__uri=str(database)))
    assert_says(message, f"{database}/database.json", "needed a database manifest")


def test_a_manifest_that_leads_out_of_its_folder_is_refused(world: World, tmp_path: Path) -> None:
    database = world.copied_database(tmp_path)
    content = json.loads((database / "database.json").read_text())
    content["proposal"]["path"] = "../../etc/passwd"
    _rewritten(database, **content)
    message = problem_of(world.job(database__uri=str(database)))
    assert_says(message, "proposal.path", "must be a relative path inside the database")


@pytest.mark.parametrize("name", [EMBEDDINGS, "thumbnails/shard-00000.parquet", "proposal.parquet"])
def test_a_missing_file_is_named(world: World, tmp_path: Path, name: str) -> None:
    database = world.copied_database(tmp_path)
    (database / name).unlink()
    message = problem_of(world.job(database__uri=str(database)))
    assert_says(message, f"{database}/{name}", "is missing (1 of 5 files", "copy the database")


def test_truncated_embeddings_are_refused(world: World, tmp_path: Path) -> None:
    database = world.copied_database(tmp_path)
    path = database / EMBEDDINGS
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    message = problem_of(world.job(database__uri=str(database)))
    assert_says(message, str(path), f"has {size - 100:,} bytes", f"needed {size:,} bytes")


def test_a_file_of_the_right_size_and_other_content_is_refused(
    world: World, tmp_path: Path
) -> None:
    database = world.copied_database(tmp_path)
    path = database / EMBEDDINGS
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = problem_of(world.job(database__uri=str(database)))
    assert_says(message, str(database), EMBEDDINGS, "other content than its digest says")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([np.nan, 0, 0, 0, 0, 1], "row 27 holds NaN or infinite values (1 of 15 rows do)"),
        ([np.inf, 0, 0, 0, 0, 1], "row 27 holds NaN or infinite values (1 of 15 rows do)"),
        ([0, 0, 0, 0, 0, 0], "row 27 has norm 0 (1 of 15 rows do)"),
    ],
)
def test_a_row_without_a_direction_is_refused(
    world: World, tmp_path: Path, row: list[float], words: str
) -> None:
    database = world.copied_database(tmp_path)
    _with_row(database, row)
    message = problem_of(world.job(database__uri=str(database)))
    assert_says(message, EMBEDDINGS, words, "recompute or remove these rows")


def test_embeddings_of_another_width_than_the_manifest_says_are_refused(
    world: World, tmp_path: Path
) -> None:
    database = world.copied_database(tmp_path)
    _rewritten(database, dim=7)
    found = "\n".join(
        str(problem) for problem in problems_of(world.job(database__uri=str(database)))
    )
    assert_says(found, "embeddings/shard-00000.parquet", "25 rows of 7 float32 values")


@pytest.mark.parametrize("damage", ["missing", "truncated", "a file too many", "altered"])
def test_a_damaged_index_is_refused(
    world: World, partitioned: Path, tmp_path: Path, damage: str
) -> None:
    database = Path(shutil.copytree(partitioned, tmp_path / "database"))
    victim = max((database / "index" / "shard-00000").iterdir(), key=lambda p: p.stat().st_size)
    content = victim.read_bytes()
    match damage:
        case "missing":
            victim.unlink()
        case "truncated":
            victim.write_bytes(content[:-1])
        case "altered":
            victim.write_bytes(bytes([content[0] ^ 255]) + content[1:])
        case _:
            victim.with_name("scann_docids.pkl").write_bytes(b"")
    document = world.job(
        database__uri=str(database),
        conditioning={"mode": "unconditional", "weighting": "uniform"},
    )
    words = {
        "missing": f"{victim.name}: is missing",
        "truncated": f"{victim.name}: has {len(content) - 1:,} bytes",
        "altered": "other content than its digest says",
        "a file too many": "exactly the files of the manifest",
    }
    assert_says(problem_of(document), str(database), words[damage])


def test_a_partitioned_database_passes(world: World, partitioned: Path) -> None:
    document = world.job(
        database__uri=str(partitioned),
        conditioning={"mode": "unconditional", "weighting": "uniform"},
    )
    assert checked(document).database.manifest.rows == 300


@pytest.mark.parametrize(
    ("row_ids", "counts", "words"),
    [
        ([0, ROWS], [2, 1], "row id 40"),
        ([1, 1], [2, 1], "a row id occurs twice"),
        ([0, 1], [1, 2], "unordered counts"),
    ],
)
def test_a_proposal_that_does_not_fit_is_refused(
    world: World, tmp_path: Path, row_ids: list[int], counts: list[int], words: str
) -> None:
    database = world.copied_database(tmp_path)
    path = database / "proposal.parquet"
    pq.write_table(pa.table({"row_id": row_ids, "count": counts}), path)
    manifest: DatabaseManifest = Database.open(str(database)).manifest
    stored = stored_file(database, path)
    write_manifest(database, manifest.model_copy(update={"proposal": stored}))
    assert_says(problem_of(world.job(database__uri=str(database))), "proposal", words)
