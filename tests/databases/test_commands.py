from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdm_batch.cli import main
from rdm_batch.inputs import encoders
from rdm_batch.inputs.databases import Database
from rdm_batch.reports.encoding import BuildReport
from rdm_batch.retrieval.database import stored_file
from rdm_batch.retrieval.rows import write_rows
from tests.fixtures.fake_encoder import FakeEncoder
from tests.job_kit import write_manifest


@pytest.fixture(autouse=True)
def _fake_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "load_named_encoder", lambda name, weights, device: FakeEncoder())


def build(out: Path, *extra: str) -> int:
    arguments = ["--images", "shapes:database:100", "--out", str(out), *extra]
    return main(["database", "build", *arguments])


def test_build_info_and_check_print_what_they_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = ("--proposal-from", "shapes:train:50")
    report = tmp_path / "report.json"
    assert build(tmp_path / "db", "--shards", "2", *counted, "--report", str(report)) == 0
    built = capsys.readouterr()
    assert "encode images: 100 images in 0:0" in built.err
    told = BuildReport.model_validate_json(report.read_bytes())
    assert [speed.images for speed in told.encoded] == [100, 50]
    assert f"report: {report}\n" in built.out
    built = built._replace(out=built.out.replace(f"report: {report}\n", ""))
    assert "rows     100 x 24 float16" in built.out
    assert "100/100 images" in built.err
    assert main(["database", "info", str(tmp_path / "db")]) == 0
    assert capsys.readouterr().out == built.out
    assert main(["database", "check", str(tmp_path / "db")]) == 0
    assert "complete" in capsys.readouterr().out
    (tmp_path / "db/proposal.parquet").unlink()
    assert main(["database", "check", str(tmp_path / "db")]) == 1
    assert "proposal.parquet is missing" in capsys.readouterr().out


def test_index_settings_reach_the_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = ["--index", "tree_ah", "--leaves", "10", "--leaves-to-search", "3"]
    assert build(tmp_path / "db", *extra) == 0
    assert "1 x tree_ah (3 of 10 leaves searched" in capsys.readouterr().out


def test_an_index_is_proved_by_building_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "db"
    assert build(database, "--index", "tree_soar", "--leaves", "10") == 0
    assert "recall@20" in capsys.readouterr().out
    check = ["database", "check", str(database)]
    assert main([*check, "--rebuild"]) == 0
    assert "complete" in capsys.readouterr().out
    # An index that is whole, but of other rows: no digest tells, for the manifest was made with it.
    manifest = Database.open(str(database)).manifest
    (shard,) = manifest.shards
    assert shard.rows_file is not None
    rows = np.load(database / shard.rows_file.path)
    rows[7] = rows[8]
    write_rows(database / shard.rows_file.path, rows)
    forged = shard.model_copy(
        update={"rows_file": stored_file(database, database / shard.rows_file.path)}
    )
    write_manifest(database, manifest.model_copy(update={"shards": (forged,)}))
    assert main(check) == 0
    assert main([*check, "--rebuild"]) == 1
    assert "has other content than its digest says (built again)" in capsys.readouterr().out
    write_manifest(
        database,
        manifest.model_copy(update={"shards": (forged.model_copy(update={"scann": "1.0"}),)}),
    )
    assert main([*check, "--rebuild"]) == 1
    assert "its index was built with ScaNN 1.0" in capsys.readouterr().err


def test_damaged_images_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "photos/good.png")
    for number in range(12):
        (tmp_path / f"photos/bad{number:02d}.png").write_bytes(b"x")
    command = ["database", "build", "--images", str(tmp_path / "photos"), "--out"]
    assert main([*command, str(tmp_path / "db")]) == 0
    printed = capsys.readouterr().out
    assert "12 damaged ones left out" in printed
    assert "bad09.png" in printed
    assert "bad10.png" not in printed
    assert "2 more, listed in database.json" in printed


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--leaves", "0"], "--leaves: 0; needed at least 1"),
        (["--leaves-to-search", "-1"], "--leaves-to-search"),
        (["--reorder", "0"], "--reorder: 0"),
        (["--shards", "0"], "--shards: 0; needed at least 1"),
        (["--workers", "0"], "--workers: 0; needed at least 1"),
        (["--proposal-from", "shapes:train:5", "--proposal-k", "0"], "--proposal-k: 0"),
        (["--patches", "0"], "--patches: 0"),
        (["--patch-seed", "-1"], "--patch-seed: -1; needed at least 0"),
        (["--thumbnail-size", "-1"], "--thumbnail-size: -1"),
        (["--encoder-weights", "s3://name:secret@bucket/a"], "--encoder-weights: carries"),
        (["--out", "http://somewhere"], "http://somewhere"),
    ],
)
def test_mistakes_are_one_line_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    assert build(tmp_path / "db", *extra) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert "secret" not in error
    assert not (tmp_path / "db/database.json").exists()


@pytest.mark.parametrize("action", ["info", "check"])
def test_a_missing_database_is_an_expected_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    assert main(["database", action, str(tmp_path)]) == 1
    assert "no database.json" in capsys.readouterr().err
