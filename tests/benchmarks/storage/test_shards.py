from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.records import read_record
from benchmarks.storage import shards


def test_every_stage_of_a_shard_stands_beside_its_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "CASES", ((4, 32),))
    monkeypatch.setattr(shards, "why_not_swift", lambda folder: "not here")
    path = tmp_path / "storage.json"
    shards.main(["--repeats", "1", "--json", str(path)])
    record = read_record(path)
    assert record is not None
    (part,) = record.parts
    assert part.name == "4 images of 32 x 32"
    assert part.notes == ("Swift is not measured: not here",)
    stages = ["encode", "encode, level 1", "encode, default", "parquet", "two writes, local"]
    assert [row.name for row in part.rows] == [*stages, "commit, local", "decode"]
    assert all(row.gap > 0 and row.details["bytes"] > 0 for row in part.rows)
