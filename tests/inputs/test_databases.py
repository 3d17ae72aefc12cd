from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.proposal import count_neighbors
from rdm_batch.retrieval.shard import open_shard
from rdm_batch.retrieval.writer import write_proposal
from rdm_batch.storage.object_store import open_store
from tests.job_kit import ROWS, write_database, write_manifest
from tests.worlds import World


def test_a_local_database_is_used_where_it_lies(world: World) -> None:
    root = world.root / "database"
    database = Database.open(str(root))
    database.check_stored_files()
    assert database.root([0]) == root


def test_the_proposal_is_loaded_where_there_is_one(world: World, tmp_path: Path) -> None:
    uri = str(world.root / "database")
    proposal = Database.open(uri).proposal()
    assert proposal is not None
    assert proposal.row_ids.tolist() == list(range(ROWS))
    without = write_database(tmp_path, proposal=False)
    assert Database(str(tmp_path), without).proposal() is None


def test_a_proposal_is_read_as_it_was_stored(tmp_path: Path) -> None:
    manifest = write_database(tmp_path, proposal=False)
    stored = write_proposal(tmp_path, count_neighbors(np.array([[3, 4], [4, 39]])))
    manifest = write_manifest(tmp_path, manifest.model_copy(update={"proposal": stored}))
    read = Database(str(tmp_path), manifest).proposal()
    assert read is not None
    assert read.row_ids.tolist() == [4, 3, 39]
    assert read.counts.tolist() == [2, 1, 1]
    smaller = manifest.model_copy(update={"rows": 39})
    with pytest.raises(DatabaseError, match="row id 39"):
        Database(str(tmp_path), smaller).proposal()


def test_a_proposal_of_the_right_size_and_other_content_is_refused(
    world: World, tmp_path: Path
) -> None:
    database = Database.open(str(world.copied_database(tmp_path)))
    path = tmp_path / "database" / "proposal.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match="other content than its digest says"):
        database.proposal()


def test_of_a_remote_database_only_the_shards_asked_for_are_copied(
    world: World, swift_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path))
    local = world.root / "database"
    store = open_store(swift_uri)
    for path in (path for path in local.rglob("*") if path.is_file()):
        store.write_bytes(path.relative_to(local).as_posix(), path.read_bytes())
    database = Database.open(swift_uri)
    manifest = database.manifest
    assert manifest == Database.open(str(local)).manifest
    database.check_stored_files()

    root = database.root([1])
    assert [path.name for path in (root / "embeddings").iterdir()] == ["shard-00001.parquet"]
    assert database.root([1]) == root
    remote, here = (open_shard(place, 1, manifest=manifest) for place in (root, local))
    ids = here.first_row + np.arange(here.rows)
    np.testing.assert_array_equal(remote.fetch(ids), here.fetch(ids))
    assert sorted(path.name for path in root.iterdir()) == ["embeddings", "thumbnails"]

    proposal = database.proposal()
    assert proposal is not None
    assert len(proposal.row_ids) == ROWS

    store.delete("embeddings/shard-00000.parquet")
    with pytest.raises(DatabaseError, match=r"shard-00000\.parquet: is missing \(1 of 5 files"):
        database.check_stored_files()
    store.delete("database.json")
    with pytest.raises(DatabaseError, match=r"holds no database\.json"):
        Database.open(swift_uri)


def test_a_damaged_database_is_named_with_its_first_damaged_file(tmp_path: Path) -> None:
    manifest = write_database(tmp_path)
    (tmp_path / "proposal.parquet").write_bytes(b"cut")
    (tmp_path / "embeddings/shard-00001.parquet").unlink()
    with pytest.raises(DatabaseError) as caught:
        Database.open(str(tmp_path)).check_stored_files()
    message = str(caught.value)
    where = f"{tmp_path}/embeddings/shard-00001.parquet: is missing"
    assert message.startswith(f"{where} (2 of {len(manifest.files())} files are damaged)")
    assert "copy the database again or rebuild it" in message
