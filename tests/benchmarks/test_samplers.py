from __future__ import annotations

import json
from pathlib import Path

from benchmarks.samplers import Case, main


def test_every_case_is_drawn_scored_and_written(tmp_path: Path) -> None:
    path = tmp_path / "samplers.json"
    cases = (Case("ddim", 2), Case("dpm_solver_pp", 2), Case("autoregressive", top_p=0.5))
    main(["--samples", "64", "--json", str(path)], cases)
    rows = json.loads(path.read_text())["rows"]
    assert [row["sampler"] for row in rows] == ["ddim", "dpm_solver_pp", "autoregressive"]
    # Sets of a head are compared with its first.
    assert rows[0]["mean_difference_of_bytes"] == 0 < rows[1]["mean_difference_of_bytes"]
    assert rows[2]["mean_difference_of_bytes"] == 0
    assert all(row["fid"] > 0 and 0 <= row["precision"] <= 1 for row in rows)
    page = path.with_suffix(".md").read_text()
    assert all(f"| {case.describe()} |" in page for case in cases)
