"""The paper's figures, as sweeps in the embedded world."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rdm_batch.errors import InvalidJobError
from rdm_batch.sweeps.cells import load_sweep
from rdm_batch.sweeps.plan import check_sweep

JOBS = Path(__file__).parents[2] / "jobs"
FIGURES = sorted(JOBS.glob("fig_*.yaml"))


def test_the_promised_figures_are_there() -> None:
    assert {path.stem for path in FIGURES} >= {
        "fig_guidance",
        "fig_top_m",
        "fig_k_nn",
        "fig_samplers",
        "fig_databases",
        "fig_text_contexts",
    }


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_every_figure_is_ready_to_run(path: Path, tmp_path: Path) -> None:
    sweep = load_sweep(path, [f"output.uri={tmp_path / 'out'}"])
    assert len(sweep.cells) > 2
    if path.stem == "fig_databases":  # two of its databases are built by commands it names
        with pytest.raises(InvalidJobError) as caught:
            check_sweep(sweep)
        assert {str(problem).split(":")[0] for problem in caught.value.problems} == {
            "cell train",
            "cell validation",
        }
        return
    assert len(check_sweep(sweep).jobs) == len(sweep.cells)


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_what_is_commented_for_the_published_size_is_a_sweep_too(path: Path) -> None:
    text = path.read_text()
    commented = "\n".join(re.findall(r"^#     (\w+: \{.*)$", text, re.MULTILINE))
    changes = yaml.safe_load(commented)
    document = yaml.safe_load(text) | changes
    sweep = load_sweep(document)
    assert all(cell.job.sampling.num_samples == 50_000 for cell in sweep.cells)
    assert sweep.cells[0].job.model.head == "rdm"
