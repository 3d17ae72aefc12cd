from __future__ import annotations

import json
from pathlib import Path

from benchmarks.precision import main
from benchmarks.samplers import Case


def test_errors_and_scores_of_both_heads_are_written(tmp_path: Path) -> None:
    path = tmp_path / "precision.json"
    main(["--samples", "64", "--json", str(path)], [Case("ddim", 2), Case("ddim", 2, "bfloat16")])
    record = json.loads(path.read_text())
    exact, rounded = record["rows"]
    assert exact["mean_difference_of_bytes"] == 0 < rounded["mean_difference_of_bytes"] < 5
    diffusion, autoregression = record["errors"]["diffusion"], record["errors"]["autoregression"]
    assert 0 < diffusion["decoder, channels_last in float32"] < 1e-5
    assert 1e-5 < diffusion["decoded images"] < 0.05
    assert all(1e-4 < diffusion[name] < 0.1 for name in diffusion if name.startswith("noise"))
    assert 1e-5 < autoregression["decoded images"] < 0.05
    assert 0 < autoregression["total variation distance of the next token, mean"] < 0.05
    page = path.with_suffix(".md").read_text()
    assert all(f"| {name} |" in page for name in [*diffusion, *autoregression])
