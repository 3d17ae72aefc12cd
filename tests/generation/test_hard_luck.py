"""Disks that fill or close, two drivers on one output, software that was changed meanwhile."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest

from rdm_batch.errors import SampleSetError
from rdm_batch.generation.job import run
from rdm_batch.specs.load import parse_job
from rdm_batch.storage import store
from tests.job_kit import write_job
from tests.ray_kit import shard_digests, started_job
from tests.worlds import World


def make(document: dict[str, Any]) -> None:
    run(parse_job(document, "job"), "none")


@pytest.fixture
def document(world: World) -> dict[str, Any]:
    return world.job(evaluation=None)


@pytest.fixture
def out(document: dict[str, Any]) -> Path:
    return Path(document["output"]["uri"])


@pytest.fixture(scope="module")
def undisturbed(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    make(built_world.job(evaluation=None, output__uri=str(folder)))
    return shard_digests(folder)


@pytest.mark.parametrize(
    ("number", "found"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "is on a read-only file system")],
)
def test_a_disk_that_takes_no_more_is_one_error_and_costs_nothing_stored(
    document: dict[str, Any],
    out: Path,
    undisturbed: dict[str, str],
    number: int,
    found: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flush = store._flush_to_disk
    taken = [0]

    def full(file: io.BufferedWriter) -> None:
        taken[0] += 1
        if taken[0] > 6:
            raise OSError(number, "the disk takes no more")
        flush(file)

    monkeypatch.setattr(store, "_flush_to_disk", full)
    with pytest.raises(SampleSetError, match=found):
        make(document)
    stored = shard_digests(out)
    assert 0 < len(stored) < len(undisturbed)
    assert stored.items() <= undisturbed.items()
    assert [path.name for path in out.rglob(".*")] == []
    monkeypatch.undo()
    make(document)
    assert shard_digests(out) == undisturbed


def test_two_drivers_on_one_output_make_the_same_bytes(
    document: dict[str, Any], out: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    job = write_job(tmp_path / "job.yaml", document)
    with (
        started_job(job, "--address", "none") as one,
        started_job(job, "--address", "none") as other,
    ):
        printed = [process.communicate(timeout=120)[0] for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], printed
    assert shard_digests(out) == undisturbed
    assert [path.name for path in out.rglob(".*")] == []


def test_a_set_begun_with_other_software_is_completed_and_says_so(
    document: dict[str, Any],
    out: Path,
    undisturbed: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(document)
    header = json.loads((out / "sample_set.json").read_text())
    header["software"] |= {"rdm_batch": "0.0.9", "torch": "2.0.0"}
    (out / "sample_set.json").write_text(json.dumps(header))
    capsys.readouterr()
    make(document)
    assert "note:" not in capsys.readouterr().err
    for name in ("data/00002.parquet", "_SUCCESS.json"):
        (out / name).unlink()
    make(document)
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert "rdm_batch 0.0.9 (now 0.1" in note
    assert "torch 2.0.0 (now " in note
    assert shard_digests(out) == undisturbed
    assert json.loads((out / "sample_set.json").read_text()) == header
