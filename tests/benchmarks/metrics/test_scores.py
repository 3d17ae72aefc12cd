from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.metrics import scores
from benchmarks.metrics.tasks import TASKS
from benchmarks.records import read_record


def test_both_programs_score_the_same_and_stand_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processes of their own keep memory apart, and take seconds to start.
    monkeypatch.setattr(scores, "run_task", lambda name, *values: TASKS[name](*values))
    # The benchmark sets it for its processes: put back after the test.
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scores, "product_speed", lambda dtype: 1e9)
    path = tmp_path / "metrics.json"
    sizes = ["--pairs", "40", "--large", "60"]
    scores.main([*sizes, "--only", "pairs", "large", "--json", str(path)])
    record = read_record(path)
    assert record is not None
    pairs, large = record.parts
    assert [row.name for row in pairs.rows] == [
        "precision and recall, 40 x 40",
        "precision and recall, 40 x 40, peak memory",
    ]
    assert all(row.ratio > 0 for row in pairs.rows)
    assert pairs.rows[0].needed_ratio == 1
    # Where torch-fidelity does not fit there is no baseline, but a limit to the memory.
    assert [row.ratio for row in large.rows] == [None, None]
    assert large.rows[1].needed == 2
    ours, theirs = (scores.both("pairs", 40, 40)[who]["value"] for who in ("ours", scores.THEIRS))
    assert ours == pytest.approx(theirs)
