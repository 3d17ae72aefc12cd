from __future__ import annotations

from pathlib import Path

from benchmarks.heads.precision import main
from benchmarks.heads.samplers import Case
from benchmarks.records import read_record


def test_errors_and_scores_of_both_heads_are_written(tmp_path: Path) -> None:
    path = tmp_path / "precision.json"
    main(["--samples", "64", "--json", str(path)], [Case("ddim", 2), Case("ddim", 2, "bfloat16")])
    record = read_record(path)
    assert record is not None
    parts = {part.name: part for part in record.parts}
    exact, rounded = (row.details["bytes from first"] for row in parts["sets"].rows)
    assert exact == 0 < rounded < 5
    diffusion, autoregression = (
        {row.name: row.value for row in parts[f"errors: {title}"].rows}
        for title in ("diffusion", "autoregression")
    )
    assert 0 < diffusion["decoder, channels_last in float32"] < 1e-5
    assert 1e-5 < diffusion["decoded images"] < 0.05
    assert all(1e-4 < diffusion[name] < 0.1 for name in diffusion if name.startswith("noise"))
    assert 1e-5 < autoregression["decoded images"] < 0.05
    assert 0 < autoregression["total variation distance of the next token, mean"] < 0.05
    page = path.with_suffix(".md").read_text()
    assert all(f"| {name} |" in page for name in [*diffusion, *autoregression])
