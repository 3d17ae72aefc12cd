"""The main job over databases of photographs and of handwriting, as the README shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rdm_batch.cli import main
from rdm_batch.reports.saved import load_run
from tests.fixtures.pictures import write_digits, write_photographs
from tests.ray_kit import ROOT, run_job
from tests.ray_nodes import TwoNodes

FEW = ("--set", "sampling.num_samples=32", "--set", "sampling.num_steps=4")
NO_PROPOSAL = ("--set", "conditioning.weighting=uniform", "--set", "conditioning.top_m=1.0")


@pytest.mark.parametrize(
    ("write", "options"),
    [(write_photographs, ["--patches", "8", "--shards", "2"]), (write_digits, [])],
    ids=["photographs", "digits"],
)
def test_the_quickstart_runs_over_a_folder_of_pictures(
    write: Callable[[Path], object], options: list[str], two_nodes: TwoNodes, tmp_path: Path
) -> None:
    write(tmp_path / "files")
    database, out = str(tmp_path / "db"), str(tmp_path / "out")
    build = ["database", "build", "--images", str(tmp_path / "files"), *options]
    assert main([*build, "--out", database]) == 0
    run_job(
        ROOT / "jobs" / "quickstart.yaml",
        *("--address", two_nodes.address, "--set", f"output.uri={out}"),
        *("--set", f"database.uri={database}", *NO_PROPOSAL, *FEW),
    )
    report = load_run(out)
    assert report.report.sample_set.rows == 32
    assert report.pictures is not None
    assert set(report.pictures.neighbors) >= set(report.report.illustrated[0].neighbor_ids)
