from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pipeline import jobs


def test_the_floor_is_the_work_of_one_shard_by_activity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SHARD_SIZE", 8)
    found = jobs.floor_s(jobs.null_job(24, tmp_path / "out"))
    assert found.keys() == {"neighbors", "model", "encode", "write"}
    assert all(seconds > 0 for seconds in found.values())
