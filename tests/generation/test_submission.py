from __future__ import annotations

import copy
from pathlib import Path

import pytest

from rdm_batch.errors import InvalidJobError
from rdm_batch.generation.submission import OUTPUT_ROOT_VARIABLE, default_address, load_job
from tests.job_kit import write_job
from tests.worlds import World


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start as by hand, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", OUTPUT_ROOT_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_a_job_from_a_file_and_from_a_dictionary_are_the_same(world: World, tmp_path: Path) -> None:
    document = world.job(output__uri="out", evaluation__reference="reference.npz")
    before = copy.deepcopy(document)
    from_file = load_job(write_job(tmp_path / "job.yaml", document), ["sampling.seed=7"])
    from_dictionary = load_job(document, ["sampling.seed=7"])
    assert from_file == from_dictionary
    assert from_dictionary.sampling.seed == 7
    assert from_dictionary.output.uri == str(tmp_path / "out")
    assert from_dictionary.evaluation is not None
    assert from_dictionary.evaluation.reference == str(tmp_path / "reference.npz")
    assert document == before


def test_what_is_wrong_with_a_dictionary_is_said(world: World) -> None:
    with pytest.raises(
        InvalidJobError, match=r"^the job: 1 problem\n  - sampling\.num_steps: is 0"
    ):
        load_job(world.job(sampling__num_steps=0))


@pytest.mark.parametrize("root", [None, "/stored"])
def test_a_submitted_job_writes_below_the_output_root(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str | None
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("HOME", "/home/somebody")
    if root is not None:
        monkeypatch.setenv(OUTPUT_ROOT_VARIABLE, root)
    spec = load_job(world.job(output__uri="out", database__uri="database"))
    assert spec.output.uri == f"{root or '/home/somebody'}/out"
    assert spec.database.uri == str(tmp_path / "database")


def test_a_submitted_job_joins_the_cluster_it_was_submitted_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert default_address() == "local"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert default_address() == "auto"
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert default_address() == "auto"
