from __future__ import annotations

from pathlib import Path

from benchmarks.heads.samplers import Case, main
from benchmarks.records import read_record


def test_every_case_is_drawn_scored_and_written(tmp_path: Path) -> None:
    path = tmp_path / "samplers.json"
    cases = (Case("ddim", 2), Case("dpm_solver_pp", 2), Case("autoregressive", top_p=0.5))
    main(["--samples", "64", "--json", str(path)], cases)
    record = read_record(path)
    assert record is not None
    (part,) = record.parts
    assert [row.name for row in part.rows] == [f"{case.describe()}, float32" for case in cases]
    # Sets of a head are compared with its first.
    differences = [row.details["bytes from first"] for row in part.rows]
    assert differences[0] == 0 < differences[1]
    assert differences[2] == 0
    assert [row.ratio is None for row in part.rows] == [True, False, True]
    assert all(row.details["fid"] > 0 and 0 <= row.details["precision"] <= 1 for row in part.rows)
    page = path.with_suffix(".md").read_text()
    assert all(f"| {case.describe()}, float32 |" in page for case in cases)
