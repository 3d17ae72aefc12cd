"""What a sweep file may say, what its cells are, and what is said of its mistakes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from rdm_batch.errors import InvalidJobError, SpecError
from rdm_batch.generation.preflight import preflight
from rdm_batch.generation.submission import load_job
from rdm_batch.run import main
from rdm_batch.sweeps.cells import load_sweep
from rdm_batch.sweeps.plan import check_sweep
from tests.job_kit import write_job
from tests.sweeps.kit import sweep_document


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return sweep_document(tmp_path_factory.mktemp("world"))


def swept(world: dict[str, Any], **sweep: Any) -> dict[str, Any]:
    return copy.deepcopy(world) | {"sweep": sweep}


def names(document: dict[str, Any]) -> list[str]:
    return [cell.name for cell in load_sweep(document).cells]


def test_a_grid_has_every_combination(world: dict[str, Any]) -> None:
    axes = {"sampling.guidance_scale": [1.0, 2.0], "conditioning.top_m": [0.1, 0.5]}
    sweep = load_sweep(swept(world, grid=axes))
    assert [cell.name for cell in sweep.cells] == [
        "guidance_scale-1.0_top_m-0.1",
        "guidance_scale-1.0_top_m-0.5",
        "guidance_scale-2.0_top_m-0.1",
        "guidance_scale-2.0_top_m-0.5",
    ]
    assert sweep.axes == ("sampling.guidance_scale", "conditioning.top_m")
    # The job as written (1.5, 0.5) is no cell: differences are taken to the first.
    assert sweep.base == 0


def test_lines_go_through_the_job_as_it_is_written(world: dict[str, Any]) -> None:
    axes = {"sampling.guidance_scale": [1.0, 1.5], "sampling.num_steps": [2, 4]}
    sweep = load_sweep(swept(world, lines=axes))
    # 1.5 is the base point itself.
    found = [cell.name for cell in sweep.cells]
    assert found == ["base", "guidance_scale-1.0", "num_steps-2", "num_steps-4"]
    assert sweep.base == 0
    assert sweep.cells[2].job.sampling.guidance_scale == 1.5


def test_a_list_takes_names_and_finds_its_base(world: dict[str, Any]) -> None:
    points = [
        {"sampling.sampler": "plms", "sampling.eta": None},
        {"name": "as-written", "sampling.num_steps": 3},
    ]
    world = copy.deepcopy(world)
    del world["sampling"]["eta"]
    points[0].pop("sampling.eta")
    sweep = load_sweep(swept(world, list=points))
    assert [cell.name for cell in sweep.cells] == ["sampler-plms", "as-written"]
    assert sweep.base == 1


def test_whole_parts_vary_and_values_that_end_alike_get_names_apart(world: dict[str, Any]) -> None:
    axes = {"database.uri": ["a/database", "b/database"]}
    first, second = names(swept(world, grid=axes))
    assert first != second
    assert first.startswith("uri-database-")
    # What a cell is called does not change when the sweep grows.
    grown = names(swept(world, grid={"database.uri": ["c/database", "a/database", "b/database"]}))
    assert grown[1:] == [first, second]


def test_a_cell_is_the_job_somebody_writes_by_hand(world: dict[str, Any], tmp_path: Path) -> None:
    axes = {"sampling.guidance_scale": [2.0]}
    checked = check_sweep(load_sweep(swept(world, lines=axes)))
    cell = checked.jobs[1]
    by_hand = copy.deepcopy(world)
    del by_hand["sweep"]
    by_hand["sampling"]["guidance_scale"] = 2.0
    by_hand["output"]["uri"] = str(tmp_path / "elsewhere")
    job = preflight(load_job(by_hand), "by hand", {})
    assert cell.header.digest == job.header.digest
    assert cell.header.spec == job.header.spec
    assert cell.spec.output.uri == f"{world['output']['uri']}/cells/guidance_scale-2.0"


BAD = [
    ({}, "sweep: give exactly one of grid, lines and list (none of them is set)"),
    (
        {"grid": {"sampling.eta": [0.5]}, "lines": {"sampling.eta": [0.5]}},
        "give exactly one of grid, lines and list (grid and lines)",
    ),
    ({"grid": {}}, "sweep.grid: is {}"),
    ({"grid": {"sampling.eta": []}}, "sweep.grid.sampling.eta: is []"),
    ({"gird": {"sampling.eta": [1.0]}}, "sweep.gird: is not a field; did you mean grid?"),
    (
        {"grid": {"sampling.gudance_scale": [1.0]}},
        "sweep.grid: sampling.gudance_scale is no field of a job; "
        "did you mean sampling.guidance_scale?",
    ),
    (
        {"grid": {"sampling": [{}], "sampling.eta": [1.0]}},
        "sweep.grid: sampling and sampling.eta conflict",
    ),
    ({"grid": {"output.uri": ["a", "b"]}}, "output.uri cannot be varied; cells lie below"),
    ({"grid": {"cluster.heads": [1, 2]}}, "cluster.heads cannot be varied; it does not change"),
    ({"grid": {"sampling.eta": [0.5, 0.5]}}, "sampling.eta has 0.5 twice"),
    (
        {"grid": {"database.retriever_shards": [1, 2]}},
        "cells retriever_shards-1 and retriever_shards-2 are the same samples",
    ),
    ({"list": [{"name": "../up", "sampling.eta": 0.5}]}, "sweep.list.0: name is '../up'"),
    (
        {"list": [{"name": "a", "sampling.eta": 0.5}, {"name": "a", "sampling.eta": 0.6}]},
        "sweep: 1 cells are there twice: a",
    ),
    ({"grid": {"sampling.seed": list(range(1001))}}, "sweep: has 1,001 cells; needed at most"),
    (
        {"lines": {"sampling.eta": [0.5]}, "score": "kid"},
        "sweep.score: is kid, which evaluation.scores does not ask for; needed one of fid",
    ),
]


@pytest.mark.parametrize(("sweep", "message"), BAD, ids=lambda value: str(value)[:40])
def test_one_mistake_gets_one_clear_message(
    world: dict[str, Any], sweep: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidJobError) as caught:
        load_sweep(swept(world, **sweep))
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


def test_all_mistakes_of_cells_are_told_at_once_with_their_names(world: dict[str, Any]) -> None:
    axes = {"sampling.guidance_scale": [0.5, 2.0], "sampling.num_steps": [0, 4]}
    with pytest.raises(InvalidJobError) as caught:
        load_sweep(swept(world, lines=axes))
    assert [str(problem) for problem in caught.value.problems] == [
        "cell guidance_scale-0.5: sampling.guidance_scale: is 0.5; "
        "needed greater than or equal to 1",
        "cell num_steps-0: sampling.num_steps: is 0; needed greater than or equal to 1",
    ]


def test_a_mistake_of_the_job_itself_is_told_once(world: dict[str, Any]) -> None:
    document = swept(world, lines={"sampling.guidance_scale": [1.0, 2.0, 3.0]})
    document["conditioning"]["k_nn"] = 0
    with pytest.raises(InvalidJobError) as caught:
        load_sweep(document)
    found = [str(problem) for problem in caught.value.problems]
    assert found == ["conditioning.k_nn: is 0; needed greater than or equal to 1"]


def test_what_a_cell_names_is_checked_with_its_name(world: dict[str, Any]) -> None:
    axes = {"database.uri": ["/nowhere"], "conditioning.k_nn": [2, 41]}
    sweep = load_sweep(swept(world, lines=axes))
    with pytest.raises(InvalidJobError) as caught:
        check_sweep(sweep)
    first, second = map(str, caught.value.problems)
    assert first.startswith("cell uri-nowhere: /nowhere: holds no database.json")
    assert second.startswith("cell k_nn-41: conditioning.k_nn: is 41 but")


def test_a_location_with_another_set_is_refused(world: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "sample_set.json").write_text("{}")
    document = swept(world, lines={"sampling.eta": [0.5]})
    document["output"]["uri"] = str(tmp_path)
    with pytest.raises(InvalidJobError, match="holds a sample set; needed nothing, or a sweep"):
        check_sweep(load_sweep(document))


def test_a_sweep_is_no_single_job(world: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="describes a sweep of many jobs; needed a single job"):
        load_job(world)


def test_a_dry_run_plans_the_cells_and_starts_nothing(
    world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    job = write_job(tmp_path / "job.yaml", world)
    assert main([str(job), "--dry-run", "--set", f"output.uri={out}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{job}: ready to run, 3 cells"
    assert "samples    72 in 3 cells, 72 to be made" in lines
    # 24 samples of 3 steps, of which two cells are guided.
    assert "work       360 network evaluations of single images" in lines
    assert any(line.startswith("time       not known: of 3 cells") for line in lines)
    assert [line.split()[0] for line in lines[-3:]] == [
        "base",
        "guidance_scale-1.0",
        "guidance_scale-2.0",
    ]
    assert not out.exists()
    assert main([str(job), "--dry-run", "--set", "model.checkpoint=/no/head"]) == 3
    assert "- /no/head: does not exist" in capsys.readouterr().out
