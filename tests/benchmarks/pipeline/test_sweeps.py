from __future__ import annotations

from pathlib import Path

from benchmarks.pipeline.sweeps import document
from rdm_batch.sweeps.cells import load_sweep


def test_the_measured_sweep_is_one(tmp_path: Path) -> None:
    cells = load_sweep(document(32, tmp_path / "out")).cells
    assert [cell.job.sampling.guidance_scale for cell in cells] == [1.0, 1.5, 2.0]
