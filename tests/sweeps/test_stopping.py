"""Cells that cannot be the optimum are ended, and only those."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rdm_batch.metrics.pairing import Influences, mean_influences
from rdm_batch.specs.scores import Score, ScoreDescription
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.sweeps.stopping import Standing, best_of, worse_cells
from rdm_batch.sweeps.sweep import sweep


def standing(value: float, noise: np.ndarray, score: str = "fid") -> Standing:
    ids = np.arange(len(noise), dtype=np.int64)
    found = Score(value=value, description=ScoreDescription(name=score))
    return Standing(found, Influences("samples", ids, mean_influences(noise)))


def test_the_paired_error_decides_not_the_errors_of_the_scores() -> None:
    random = np.random.default_rng(0)
    shared = random.normal(size=400)  # an error of 0.05 for each score
    standings = {
        "best": standing(1.0, shared),
        "close": standing(1.005, shared + 0.05 * random.normal(size=400)),
        "worse": standing(1.02, shared + 0.05 * random.normal(size=400)),
    }
    found = worse_cells(standings, confidence=0.99, decisions=4)
    assert found.keys() == {"worse"}
    assert found["worse"].best == "best"
    assert found["worse"].worse_by == pytest.approx(0.02)
    assert found["worse"].error == pytest.approx(0.0025, rel=0.2)
    # With no noise in common the same distance says nothing.
    standings["worse"] = standing(1.02, random.normal(size=400))
    assert worse_cells(standings, confidence=0.99, decisions=4) == {}


def test_equal_cells_are_ended_as_seldom_as_promised() -> None:
    random = np.random.default_rng(0)
    ended = 0
    for _ in range(400):
        draws = random.normal(size=(5, 200))
        standings = {
            f"cell-{number}": standing(float(row.mean()), row) for number, row in enumerate(draws)
        }
        ended += bool(worse_cells(standings, confidence=0.9, decisions=20))
    # At most a tenth of the sweeps may end a cell by mistake, give or take what 400 of them tell.
    assert ended / 400 < 0.13


def test_the_best_is_the_highest_where_more_is_better() -> None:
    noise = np.random.default_rng(0).normal(size=50)
    scores = {"a": standing(0.2, noise, "recall").score, "b": standing(0.3, noise, "recall").score}
    assert best_of(scores) == "b"
    assert best_of({"a": standing(0.2, noise).score, "b": standing(0.3, noise).score}) == "a"


def test_a_sweep_ends_hopeless_cells_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A look waits for a whole part of features; a small one makes a small test.
    monkeypatch.setattr("rdm_batch.sweeps.rounds.SET_PART_IMAGES", 32)
    jobs = Path(__file__).parents[2] / "jobs"
    world: dict[str, Any] = yaml.safe_load((jobs / "quickstart.yaml").read_text())
    world["sampling"] |= {"num_samples": 64, "num_steps": 4, "guidance_scale": 1.0}
    world["output"] = {"uri": str(tmp_path / "out"), "shard_size": 16}
    world["evaluation"]["scores"] = ["fid"]
    world["sweep"] = {
        "lines": {"sampling.num_steps": [1, 5]},
        "stop_when": {"after": 32, "confidence": 0.9},
        "pictures": 1,
    }
    found = sweep(world, address="none")
    ended = {cell.name: cell.ended for cell in found.cells if cell.ended is not None}
    assert ended.keys() == {"num_steps-1"}
    best = found.optimum
    assert best is not None
    for cell in found.cells:
        stored = SampleSet.find(cell.uri)
        assert stored is not None
        if cell.name not in ended:
            assert len(stored.missing_shards()) == 0
            assert cell.judged == 64
            continue
        assert [entry.shard for entry in stored.entries()] == [0, 1]
        assert cell.judged == cell.samples == 32
        why = ended[cell.name]
        assert why is not None
        assert why.worse_by > 1.2 * why.error
        assert cell.name not in best.within
        # Compared with the base at as many samples.
        assert cell.differences["fid"].paired
    # The same samples lead to the same decisions again.
    assert sweep(world, address="none").cells == found.cells
    whole = copy.deepcopy(world)
    whole["sweep"]["stop_when"] = None
    finished = sweep(whole, address="none")
    assert all(cell.ended is None and cell.judged == 64 for cell in finished.cells)
