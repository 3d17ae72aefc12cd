"""Sweeps as a whole: their cells are jobs, made together, and compared in pairs."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rdm_batch
from rdm_batch.generation.job import run
from rdm_batch.generation.modes.unconditional import UnconditionalConditioner
from rdm_batch.generation.submission import load_job
from rdm_batch.inputs import weights
from rdm_batch.reports.saved import load_run
from rdm_batch.reports.sweep_report import SweepReport, load_sweep_report
from rdm_batch.run import main
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.sweeps.sweep import sweep
from tests.job_kit import write_job
from tests.ray_kit import run_job, shard_digests, started_job, wait_for_shards
from tests.sweeps.kit import SAMPLES, sweep_document

CELLS = ("base", "guidance_scale-1.0", "guidance_scale-2.0")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return sweep_document(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def searches() -> Iterator[list[tuple[int, ...]]]:
    """Sample indices of every look-up, in order."""
    seen: list[tuple[int, ...]] = []
    plain = UnconditionalConditioner.__call__

    def watched(self: Any, noise: Any, retriever: Any) -> Any:
        seen.append(tuple(noise.sample_indices.tolist()))
        return plain(self, noise, retriever)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnconditionalConditioner, "__call__", watched)
        yield seen


@pytest.fixture(scope="module")
def loads() -> Iterator[list[str]]:
    """Kinds of networks, in the order they were loaded for heads."""
    seen: list[str] = []
    plain = weights.load_networks

    def watched(architecture: Any, state_dict: Any) -> Any:
        seen.append(architecture.kind)
        return plain(architecture, state_dict)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "load_networks", watched)
        yield seen


@pytest.fixture(scope="module")
def finished(world: dict[str, Any], searches: list[tuple[int, ...]]) -> SweepReport:
    searches.clear()
    report = sweep(world, address="none")
    searches.append(())
    return report


def at(world: dict[str, Any], out: Path, **parts: Any) -> dict[str, Any]:
    document = copy.deepcopy(world) | parts
    document["output"]["uri"] = str(out)
    return document


def digests(out: Path) -> dict[str, dict[str, str]]:
    return {cell.name: shard_digests(cell) for cell in sorted((out / "cells").iterdir())}


def test_a_cell_is_the_set_of_the_job_written_by_hand(
    world: dict[str, Any], finished: SweepReport, tmp_path: Path
) -> None:
    document = at(world, tmp_path / "by-hand")
    del document["sweep"]
    document["sampling"]["guidance_scale"] = 2.0
    by_hand = run(load_job(document), address="none")
    cell = Path(world["output"]["uri"]) / "cells" / "guidance_scale-2.0"
    assert shard_digests(cell) == shard_digests(tmp_path / "by-hand")
    saved = load_run(str(cell)).report
    assert saved.scores == by_hand.scores
    assert saved.spec_digest == by_hand.spec_digest
    assert SampleSet.open(str(cell)).header.num_samples == SAMPLES


def test_weights_are_loaded_once_for_all_cells(
    world: dict[str, Any], tmp_path: Path, loads: list[str]
) -> None:
    document = at(world, tmp_path / "out", evaluation=None)
    document["sampling"] |= {"num_samples": 6, "batch_size": 3}
    document["cluster"] = {"heads": 1}
    loads.clear()
    sweep(document, address="none")
    assert loads == ["rdm"]


def test_neighbors_are_looked_up_once_for_all_cells(
    finished: SweepReport, searches: list[tuple[int, ...]]
) -> None:
    looked_up = searches[: searches.index(())]
    shards = [tuple(range(first, first + 8)) for first in (0, 8, 16)]
    # And once all of them for the recall of the index.
    assert sorted(looked_up) == sorted([*shards, tuple(range(24))])


def test_shards_come_one_after_the_other_over_all_cells(finished: SweepReport) -> None:
    started = [
        (entry.measured.intervals["model"][0], entry.shard)
        for cell in finished.cells
        for entry in SampleSet.open(cell.uri).entries()
        if entry.measured is not None
    ]
    assert [shard for _, shard in sorted(started)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_report_states_paired_differences(finished: SweepReport) -> None:
    assert tuple(cell.name for cell in finished.cells) == CELLS
    assert finished.base == "base"
    assert finished.finished
    base, low, _ = finished.cells
    assert base.differences == {}
    difference = low.differences["fid"]
    fid = {cell.name: cell.score("fid") for cell in finished.cells}
    assert difference.paired
    first, second = fid["base"], fid["guidance_scale-1.0"]
    assert first is not None
    assert second is not None
    assert difference.value == second.value - first.value
    assert difference.gain is not None
    assert difference.gain > 1
    assert low.values == {"sampling.guidance_scale": 1.0}
    assert finished.optimum is not None
    best = min(fid, key=lambda name: fid[name].value)  # type: ignore[union-attr]
    assert finished.optimum.cell == best


def test_what_is_stored_is_what_was_reported(finished: SweepReport) -> None:
    out = Path(finished.uri)
    assert load_sweep_report((out / "sweep.json").read_bytes(), "sweep.json") == finished
    lines = (out / "sweep.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("cell,sampling.guidance_scale,samples,judged,fid,fid_error,")
    assert (out / "sweep.html").read_text().count("<img") == 3 * 8


def test_a_finished_sweep_is_not_made_again(
    world: dict[str, Any], finished: SweepReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: str) -> None:
        raise AssertionError("nothing is to be started")

    monkeypatch.setattr("rdm_batch.sweeps.sweep.connected", refuse)
    again = sweep(world, address="none")
    assert again.cells == finished.cells
    assert again.optimum == finished.optimum


def test_complete_cells_are_taken_as_they_are(
    world: dict[str, Any], finished: SweepReport, tmp_path: Path, searches: list[tuple[int, ...]]
) -> None:
    document = at(world, tmp_path / "out")
    cell = copy.deepcopy(document)
    del cell["sweep"]
    cell["output"]["uri"] += "/cells/base"
    run(load_job(cell), address="none")
    before = (tmp_path / "out/cells/base/_shards/00000.json").read_bytes()
    searches.clear()
    found = sweep(document, address="none")
    assert (tmp_path / "out/cells/base/_shards/00000.json").read_bytes() == before
    assert [one.scores for one in found.cells] == [one.scores for one in finished.cells]
    assert [one.differences for one in found.cells] == [one.differences for one in finished.cells]


def test_a_sweep_that_grew_makes_what_is_new(
    world: dict[str, Any], finished: SweepReport, searches: list[tuple[int, ...]]
) -> None:
    grown = copy.deepcopy(world)
    grown["sweep"]["lines"]["sampling.guidance_scale"] = [1.0, 2.0, 4.0]
    searches.clear()
    found = sweep(grown, address="none")
    assert [cell.name for cell in found.cells] == [*CELLS, "guidance_scale-4.0"]
    assert found.cells[:3] == finished.cells


def test_a_killed_sweep_goes_on_to_the_same_bytes(world: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    document = at(world, out)
    document["sampling"]["num_steps"] = 15
    job = write_job(tmp_path / "job.yaml", document)
    arguments = (job, "--address", "none")
    with started_job(*arguments) as process:
        wait_for_shards(out / "cells" / "base", 1, process)
        os.kill(process.pid, signal.SIGKILL)
    assert not (out / "cells/guidance_scale-2.0/_SUCCESS.json").exists()
    assert main(["--dry-run", str(job)]) == 0
    run_job(*arguments)
    undisturbed = at(document, tmp_path / "undisturbed")
    run_job(write_job(tmp_path / "undisturbed.yaml", undisturbed), "--address", "none")
    assert digests(out) == digests(tmp_path / "undisturbed")
    one, two = (
        json.loads((folder / "sweep.json").read_bytes())["cells"]
        for folder in (out, tmp_path / "undisturbed")
    )
    assert [cell["scores"] for cell in one] == [cell["scores"] for cell in two]


def test_cells_of_several_models_and_databases_are_made(
    world: dict[str, Any], tmp_path: Path
) -> None:
    points = [
        {"name": "rdm"},
        {"name": "noise", "model": {"head": "noise", "image_size": 16}, "sampling": {}},
    ]
    document = at(world, tmp_path / "out", evaluation=None)
    points[1]["sampling"] = {"sampler": "none", "num_samples": SAMPLES, "batch_size": 3}
    points[0]["sampling.eta"] = 1.0
    document["sweep"] = {"list": points, "pictures": 2}
    found = sweep(document, address="none")
    assert [(cell.name, cell.samples, cell.scores) for cell in found.cells] == [
        ("rdm", SAMPLES, ()),
        ("noise", SAMPLES, ()),
    ]
    assert found.optimum is None


def test_the_python_interface_has_it(world: dict[str, Any], finished: SweepReport) -> None:
    assert rdm_batch.sweep(world, address="none").cells == finished.cells
