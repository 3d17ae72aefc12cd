from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from rdm_batch import cli, run
from rdm_batch.databases import describe
from rdm_batch.errors import ClusterError
from rdm_batch.reports.progress import Progress
from rdm_batch.run import main
from tests.job_kit import job_document, write_job


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return job_document(tmp_path_factory.mktemp("world"))


@pytest.fixture
def job(document: dict[str, Any], tmp_path: Path) -> Path:
    output = {"uri": str(tmp_path / "out"), "shard_size": 4}
    return write_job(tmp_path / "job.yaml", document | {"output": output})


def test_a_dry_run_of_a_sound_job_prints_its_plan(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(job), "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[0] == f"{job}: ready to run, 6 of 6 shards are missing"
    assert lines[1] == "samples    24 in 6 shards of up to 4"
    assert lines[2].startswith("work       12 batches of up to 3, 6 network evaluations a batch")
    assert lines[-1].startswith("digest     ")
    assert not (job.parent / "out").exists()


def test_a_dry_run_says_first_what_is_missing_and_has_a_status_for_it(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--set", "database.uri=/nowhere", "--set", "model.checkpoint=/no/head.safetensors"]
    assert main([str(job), "--dry-run", *arguments]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{job}: not ready to run, 2 problems"
    assert lines[1].startswith("  - /no/head.safetensors: does not exist")
    assert lines[2].startswith("  - /nowhere: holds no database.json")
    assert lines[3] == "the plan, once they are solved:"
    assert lines[4] == "samples    24 in 6 shards of up to 4"


def test_set_changes_the_job(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--set", "sampling.num_samples=9", "--set", "sampling.guidance_scale=1"]
    assert main([str(job), "--dry-run", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "samples    9 in 3 shards" in printed
    assert "3 network evaluations a batch" in printed


@pytest.mark.parametrize("mode", [["--dry-run"], []], ids=["dry", "real"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "sampling.guidence_scale=2"], "did you mean guidance_scale?"),
        (["--set", "sampling.num_steps=0"], "sampling.num_steps: is 0"),
        (["--set", "sampling"], "needed key.path=value"),
    ],
)
def test_a_wrong_job_fails_with_one_message(
    job: Path,
    capsys: pytest.CaptureFixture[str],
    mode: list[str],
    arguments: list[str],
    message: str,
) -> None:
    assert main([str(job), *mode, *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not (job.parent / "out").exists()


def test_a_missing_job_file_fails_with_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "job.yaml")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/job.yaml: there is no such file")


def test_a_job_that_is_not_ready_fails_before_ray_starts(
    job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rdm_batch.generation import job as pipeline

    monkeypatch.setattr(pipeline, "connected", lambda address: pytest.fail("Ray was started"))
    assert main([str(job), "--set", "conditioning.k_nn=41"]) == 1
    printed = capsys.readouterr()
    assert f"error: {job}: 1 problem\n  - conditioning.k_nn: is 41" in printed.err
    assert "Traceback" not in printed.err
    assert not (job.parent / "out").exists()


def test_an_expected_failure_of_the_run_has_no_traceback(
    job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rdm_batch.generation import job as pipeline

    def fail(*_: object) -> None:
        raise ClusterError("cluster", "has 2 GPUs", "4 GPUs")

    monkeypatch.setattr(pipeline, "run_job", fail)
    assert main([str(job)]) == 1
    assert capsys.readouterr().err == "error: cluster: has 2 GPUs; needed 4 GPUs\n"


def test_an_interrupted_run_prints_the_command_that_resumes_it(
    job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rdm_batch.generation import job as pipeline

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_job", interrupt)
    arguments = [str(job), "--set", "name=with space's"]
    assert main(arguments) == 130
    printed = capsys.readouterr().err
    assert "what is stored is safe" in printed
    command = shlex.split(printed.splitlines()[-1])
    assert command == ["python", "-m", "rdm_batch.run", *arguments]


def test_an_interrupted_command_has_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(describe, "check_database", interrupt)
    assert cli.main(["database", "check", "package://shapes/database"]) == 130
    assert capsys.readouterr().err.startswith("interrupted; ")


def test_an_unexpected_failure_keeps_its_traceback(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rdm_batch.generation import job as pipeline

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "run_job", fail)
    with pytest.raises(ZeroDivisionError):
        main([str(job)])


def test_the_address_and_overrides_reach_the_run(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rdm_batch.generation import job as pipeline
    from rdm_batch.reports import table

    calls: list[tuple[object, ...]] = []

    def run_job(path: Path, overrides: list[str], address: str, _: Progress) -> tuple[None, str]:
        calls.append((path, overrides, address))
        return None, "page"

    monkeypatch.setattr(pipeline, "run_job", run_job)
    monkeypatch.setattr(table, "print_summary", lambda report: None)
    assert main([str(job), "--address", "auto", "--set", "name=a", "--set", "name=b"]) == 0
    assert calls == [(job, ["name=a", "name=b"], "auto")]


def test_help_names_every_option() -> None:
    text = run.build_parser().format_help()
    assert all(option in text for option in ("--set", "--dry-run", "--address"))
