from __future__ import annotations

import json
from pathlib import Path

from benchmarks.samplers import Case, main


def test_every_case_is_drawn_scored_and_written(tmp_path: Path) -> None:
    path = tmp_path / "samplers.json"
    cases = (Case("ddim", 2), Case("dpm_solver_pp", 2, "bfloat16"))
    main(["--samples", "64", "--json", str(path)], cases)
    record = json.loads(path.read_text())
    rows, errors = record["rows"], record["errors"]
    assert [row["sampler"] for row in rows] == ["ddim", "dpm_solver_pp"]
    assert rows[0]["mean_difference_of_bytes"] == 0 < rows[1]["mean_difference_of_bytes"]
    assert all(row["fid"] > 0 and 0 <= row["precision"] <= 1 for row in rows)
    assert rows[1]["arithmetic"] == "bfloat16"
    assert errors["decode_channels_last"] < 1e-5 < errors["decode_bfloat16"] < 0.05
    assert all(1e-4 < error < 0.1 for error in errors["eps_bfloat16"].values())
