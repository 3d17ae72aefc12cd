"""Rows appended to a database, and rows taken out of its searches."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rdm_batch.cli import main
from rdm_batch.databases import change, parts
from rdm_batch.databases.add_embeddings import add_embeddings
from rdm_batch.databases.build import build_database
from rdm_batch.databases.describe import check_database
from rdm_batch.errors import DatabaseError
from rdm_batch.inputs import encoders
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.specs.database import DatabaseAdd, DatabaseBuild, IndexSettings
from rdm_batch.specs.database_embeddings import EmbeddingsAdd
from tests.fixtures.fake_encoder import FakeEncoder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))


COLUMNS = {"caption": "c", "url": "https://x.org/"}


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


def build(uri: str, **request: Any) -> DatabaseManifest:
    request = {"images": "shapes:database:120", "shards": 2} | request
    with quiet() as progress:
        return build_database(DatabaseBuild(out=uri, **request), FakeEncoder, progress)


def add(uri: str, make_encoder: Any = FakeEncoder, **request: Any) -> DatabaseManifest:
    request = {"images": "shapes:style:40:dotted,hatched"} | request
    with quiet() as progress:
        return change.add_images(DatabaseAdd(out=uri, **request), make_encoder, progress)


def test_rows_are_appended_and_removed_on_every_store(storage_uri: str) -> None:
    before = build(storage_uri, proposal_from="shapes:train:50")
    rows = open_database(storage_uri).fetch(np.arange(120))
    after = add(storage_uri)
    assert after == Database.open(storage_uri).manifest
    assert add(storage_uri) == after
    assert (after.rows, len(after.shards)) == (160, 3)
    assert after.shards[:2] == before.shards
    assert after.changes[0].before == before.digest
    assert after.changes[0].source is not None
    assert after.changes[0].source.images == 40
    assert after.digest != before.digest
    retriever = open_database(storage_uri)
    np.testing.assert_array_equal(retriever.fetch(np.arange(120)), rows)
    assert retriever.search(retriever.fetch(np.array([150])), 3).ids[0, 0] == 150
    assert len(retriever.thumbnails(np.array([3, 150]))) == 2

    gone = [3, 4, 5, 150]
    masked = change.remove_rows(storage_uri, gone)
    assert change.remove_rows(storage_uri, [4]) == masked
    last = change.remove_rows(storage_uri, [7])
    gone = sorted([*gone, 7])
    assert last.left == 155
    with quiet() as progress:
        assert check_database(storage_uri, progress) == []
    every = retriever.fetch(np.arange(160))
    kept = np.setdiff1d(np.arange(160), gone)
    for effort in (SearchEffort(), SearchEffort(exactly=True)):
        found = Database.open(storage_uri).retriever(effort=effort).search(every[gone], 20)
        np.testing.assert_array_equal(found.ids, kept[exact_top_k(every[kept], every[gone], 20)[0]])
    proposal = Database.open(storage_uri).proposal()
    assert proposal is not None
    assert not np.isin(proposal.row_ids, gone).any()


@pytest.mark.parametrize("kind", ["tree_soar", "tree_ah"])
def test_removed_rows_are_found_by_no_index(tmp_path: Path, kind: Any) -> None:
    settings = IndexSettings(kind=kind, leaves=8, leaves_to_search=8)
    build(str(tmp_path), images="shapes:database:300", shards=1, index=settings)
    rows = open_database(tmp_path).fetch(np.arange(300))
    gone = np.arange(0, 300, 3)
    change.remove_rows(str(tmp_path), gone.tolist())
    found = open_database(tmp_path).search(rows[gone], 10)
    kept = np.setdiff1d(np.arange(300), gone)
    np.testing.assert_array_equal(
        found.scores, exact_top_k(rows[kept].astype(np.float16), rows[gone], 10)[1]
    )
    assert not np.isin(found.ids, gone).any()


def test_an_interrupted_addition_resumes_and_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build(str(tmp_path / "db"))
    put_index = parts.put_index

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "put_index", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add(str(tmp_path / "db"))
    assert Database.open(str(tmp_path / "db")).manifest == before
    monkeypatch.setattr(parts, "put_index", put_index)
    with pytest.raises(DatabaseError, match="an unfinished change made with"):
        add(str(tmp_path / "db"), images="shapes:style:20:dotted")
    with pytest.raises(DatabaseError, match="an unfinished change made with"):
        change.remove_rows(str(tmp_path / "db"), [1])
    assert add(str(tmp_path / "db")).rows == 160


def test_another_encoder_adds_nothing(tmp_path: Path) -> None:
    build(str(tmp_path))
    with pytest.raises(DatabaseError, match="name the encoder that made the database"):
        add(str(tmp_path), lambda _: FakeEncoder(digest="e" * 64))


def test_rows_that_are_none_are_refused(tmp_path: Path) -> None:
    build(str(tmp_path))
    with pytest.raises(DatabaseError, match=r"row id 120 \(1 of 2 ids\)"):
        change.remove_rows(str(tmp_path), [3, 120])
    with pytest.raises(DatabaseError, match="no row would be left"):
        change.remove_rows(str(tmp_path), list(range(120)))


def test_the_commands_say_what_there_is_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "load_named_encoder", lambda name, weights, device: FakeEncoder())
    build(str(tmp_path))
    assert main(["database", "add", "--to", str(tmp_path), "--images", "shapes:train:10"]) == 0
    assert "rows     130 x 24 float16" in capsys.readouterr().out
    assert main(["database", "remove", str(tmp_path), "--rows", "3", "10-14"]) == 0
    assert "rows     130 x 24 float16, 6 removed" in capsys.readouterr().out
    assert main(["database", "remove", str(tmp_path), "--rows", "x"]) == 1
    assert "row ids such as 3" in capsys.readouterr().err


def test_embeddings_are_appended_with_what_is_known_of_them(tmp_path: Path) -> None:
    before = build(str(tmp_path / "db"), images="shapes:database:30", shards=1)
    rows = np.random.default_rng(0).normal(size=(20, before.dim)).astype(np.float32)
    np.save(tmp_path / "more.npy", rows)
    known = {name: [f"{begin}{n}" for n in range(20)] for name, begin in COLUMNS.items()}
    pq.write_table(pa.table(known), tmp_path / "more.parquet")

    def append(**changes: Any) -> DatabaseManifest:
        request = {
            "out": str(tmp_path / "db"),
            "embeddings": str(tmp_path / "more.npy"),
            "metadata": str(tmp_path / "more.parquet"),
            "encoder": "fake",
        }
        with quiet() as progress:
            return add_embeddings(EmbeddingsAdd.model_validate(request | changes), progress)

    np.save(tmp_path / "wide.npy", np.ones((3, before.dim + 1)))
    for changes, message in (
        ({"encoder": "another"}, "was made by fake ffffffffffff; needed another, the encoder"),
        ({"encoder_digest": "0" * 64}, "needed fake 000000000000, the encoder named here"),
        (
            {"embeddings": str(tmp_path / "wide.npy"), "metadata": None},
            r"wide\.npy: holds rows of 25 numbers; needed 24, as the database",
        ),
    ):
        with pytest.raises(DatabaseError, match=message):
            append(**changes)
    assert Database.open(str(tmp_path / "db")).manifest == before
    after = append()
    assert append() == after
    assert (after.rows, len(after.shards)) == (50, 2)
    assert after.shards[0] == before.shards[0]
    opened = open_database(tmp_path / "db")
    stored = rows.astype(before.dtype).astype(np.float32)
    np.testing.assert_array_equal(opened.fetch(np.arange(30, 50)), stored)
    (record,) = opened.records(np.array([33]))
    assert record.text == "c3 \u00b7 https://x.org/3"


def test_the_command_appends_embeddings_of_the_same_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = build(str(tmp_path / "db"), images="shapes:database:30", shards=1)
    np.save(tmp_path / "more.npy", np.ones((5, before.dim)))
    command = ["database", "add", "--to", str(tmp_path / "db")]
    given = ["--embeddings", str(tmp_path / "more.npy")]
    for extra, message in (
        ([], "--images: is missing; needed images, or --embeddings"),
        (given, "--encoder: is missing"),
        ([*given, "--encoder", "fake", "--strict"], "--strict: is of images"),
    ):
        assert main([*command, *extra]) == 1
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert main([*command, *given, "--encoder", "fake"]) == 0
    assert "rows     35 x 24 float16" in capsys.readouterr().out
