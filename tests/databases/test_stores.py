from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rdm_batch.databases import target as database_target
from rdm_batch.databases.build import build_database
from rdm_batch.databases.describe import check_database
from rdm_batch.errors import DatabaseError
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest, check_files
from rdm_batch.specs.database import DatabaseBuild
from rdm_batch.storage.object_store import local_path, open_store
from tests.fixtures.fake_encoder import FakeEncoder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))


def build(uri: str, **request: Any) -> DatabaseManifest:
    request = {"images": "shapes:database:120", "shards": 2} | request
    with Progress(Console(file=io.StringIO())) as progress:
        return build_database(DatabaseBuild(out=uri, **request), FakeEncoder, progress)


def test_a_database_is_built_read_and_checked_on_every_store(
    storage_uri: str, tmp_path: Path
) -> None:
    manifest = build(storage_uri)
    store = open_store(storage_uri)
    keys = {item.key for item in store.list_objects()}
    assert keys == {file.path for file in manifest.files()} | {"database.json"}
    assert Database.open(storage_uri).manifest == manifest
    progress = Progress(Console(file=io.StringIO()))
    assert check_database(storage_uri, progress) == []
    check_files(local_path(storage_uri), manifest.files(), digests=True)
    retriever = open_database(local_path(storage_uri))
    rows = retriever.fetch(np.arange(120))
    assert retriever.search(rows[[3, 99]], 4).ids[:, 0].tolist() == [3, 99]
    assert build(storage_uri) == manifest
    with pytest.raises(DatabaseError, match="shards 2 instead of 3"):
        build(storage_uri, shards=3)


def test_nothing_stays_behind_after_an_upload(moto_uri: str, tmp_path: Path) -> None:
    build(moto_uri)
    assert list((tmp_path / "cache").rglob("*.parquet")) == []


def test_a_remote_database_appears_with_its_manifest_last(
    moto_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(manifest: DatabaseManifest) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(database_target, "render_manifest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(moto_uri)
    assert len(open_store(moto_uri).list_objects()) == 4
    with pytest.raises(DatabaseError, match=r"no database\.json"):
        Database.open(moto_uri)

    class Untouched(FakeEncoder):
        def encode_images(self, images: Any) -> Any:
            raise AssertionError("a finished part was encoded again")

    with Progress(Console(file=io.StringIO())) as progress:
        request = DatabaseBuild(images="shapes:database:120", shards=2, out=moto_uri)
        assert build_database(request, Untouched, progress) == Database.open(moto_uri).manifest
