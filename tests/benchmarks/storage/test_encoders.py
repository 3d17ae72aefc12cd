from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.records import read_record
from benchmarks.storage import encoders


def test_storing_and_launching_stand_beside_their_floors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "IMAGE_SIZE", 32)
    monkeypatch.setattr(encoders, "WRITERS", (0, 1))
    path = tmp_path / "encoders.json"
    encoders.main(["--repeats", "1", "--shards", "2", "--images", "4", "--json", str(path)])
    record = read_record(path)
    assert record is not None
    stored, launched = record.parts
    ways = ["2 threads of the head", "1 processes"]
    assert [row.name for row in stored.rows[1:]] == ways
    assert [row.name for row in launched.rows[1:]] == ways
    encoded, alone = stored.rows[0].value, launched.rows[0].value
    assert encoded is not None
    assert [row.floor for row in stored.rows[1:]] == pytest.approx(
        [encoded * row.details["cores of the floor"] for row in stored.rows[1:]]
    )
    assert all(row.details["CPU ms/image of the head's process"] > 0 for row in stored.rows)
    assert all(row.floor == alone and row.value > 0 for row in launched.rows[1:])
    assert all(row.details["images stored/s"] > 0 for row in launched.rows[1:])
