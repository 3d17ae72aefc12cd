from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.heads.cheaper import main, operations
from benchmarks.heads.samplers import Case
from benchmarks.records import read_record


def test_every_case_has_its_cost_in_time_and_fid(tmp_path: Path) -> None:
    path = tmp_path / "cheaper.json"
    cases = (
        Case("ddim", 4),
        Case("dpm_solver_pp", 2, guidance_interval=(0.3, 5.0), reuse_deep_features=2),
        Case("dpm_solver_pp", 2, weaker=("ldm", 1.5)),
    )
    main(["--samples", "64", "--json", str(path)], cases)
    record = read_record(path)
    assert record is not None
    (part,) = record.parts
    assert [row.name for row in part.rows] == [
        "ddim, 4 steps, float32",
        "dpm_solver_pp, 2 steps, guided from 0.3 to 5, deep features every 2, float32",
        "dpm_solver_pp, 2 steps, away from ldm by 1.5, float32",
    ]
    predicted = [row.details["predicted ratio"] for row in part.rows]
    assert predicted[0] == 1 < predicted[2] < predicted[1]
    assert all(row.details["fid"] > 0 for row in part.rows)


def test_operations_are_those_of_the_branches_and_blocks_evaluated() -> None:
    plain = operations(Case("ddim", 4, guidance_scale=1.0), 2.0)
    guided = operations(Case("ddim", 4), 2.0)
    assert 1.3 < guided / plain < 2
    assert operations(Case("ddim", 4, guidance_interval=(1e5, 1e6)), 2.0) == pytest.approx(plain)
    assert operations(Case("ddim", 4, guidance_interval=(0, 1e6)), 2.0) == pytest.approx(guided)
    assert operations(Case("ddim", 4, reuse_deep_features=4), 2.0) < 0.8 * guided
