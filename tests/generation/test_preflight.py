from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdm_batch.errors import InvalidJobError, RdmBatchError, SpecError
from rdm_batch.inputs.resolve import found_by
from rdm_batch.specs.load import parse_job
from rdm_batch.storage.sample_set import SampleSet
from tests.job_kit import write_job
from tests.worlds import World, assert_says, checked, problem_of, problems_of

ROOT = Path(__file__).parents[2]


def test_a_sound_job_passes_and_writes_nothing(world: World) -> None:
    job = checked(world.document)
    assert [shard.num_samples for shard in job.shards] == [4] * 6
    assert job.header.num_samples == 24
    assert job.header.image_size == 16
    assert set(job.header.content_digests) == {"checkpoint", "database"}
    assert not Path(world.document["output"]["uri"]).exists()


def test_checking_does_not_import_ray(world: World, tmp_path: Path) -> None:
    path = write_job(tmp_path / "job.yaml", world.job(conditioning__k_nn=500))
    script = f"""
import sys
from pathlib import Path
from rdm_batch.generation.preflight import preflight
from rdm_batch.errors import InvalidJobError
from rdm_batch.specs.load import load_job
try:
    preflight(load_job(Path({str(path)!r})), "job", {{}})
except InvalidJobError as error:
    print(error)
print("ray" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert "conditioning.k_nn: is 500" in run.stdout, run.stderr
    assert run.stdout.endswith("False\n")


def test_everything_wrong_with_a_job_is_said_at_once(world: World) -> None:
    document = world.job(
        model__checkpoint="/nowhere/head.safetensors",
        conditioning__k_nn=41,
        evaluation__scores=["fidd"],
        evaluation__reference="/nowhere/reference.npz",
        output__uri="package://shapes/out",
    )
    found = [str(problem) for problem in problems_of(document)]
    assert len(found) == 5
    assert_says(
        "\n".join(found),
        "/nowhere/head.safetensors: does not exist",
        "conditioning.k_nn: is 41",
        "'fidd' is not a score",
        "/nowhere/reference.npz: does not exist",
        "package://shapes/out: is part of the installed package",
    )


def test_an_output_of_another_job_is_refused_with_what_changed(world: World) -> None:
    header = checked(world.document).header
    SampleSet.create_or_resume(world.document["output"]["uri"], header)
    assert checked(world.document).header == header
    message = problem_of(world.job(sampling__seed=6, sampling__eta=0.5))
    assert_says(
        message,
        world.document["output"]["uri"],
        "belongs to another job",
        "sampling.seed: 5 -> 6",
        "sampling.eta: 1.0 -> 0.5",
        "choose another output location or undo the change",
    )


def test_an_output_that_is_a_file_is_refused(world: World) -> None:
    out = Path(world.document["output"]["uri"])
    out.write_text("mine")
    assert_says(problem_of(world.document), str(out), "is a file", "needed a folder")


def test_an_output_below_a_file_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    message = problem_of(world.job(output__uri=str(tmp_path / "file" / "out")))
    assert_says(message, str(tmp_path / "file"), "is a file", "needed a folder")


def test_an_output_in_the_installed_package_is_refused(world: World) -> None:
    message = problem_of(world.job(output__uri="package://out"))
    assert_says(message, "package://out", "part of the installed package", "cannot be changed")


def test_an_output_nobody_can_write_to_is_refused(world: World) -> None:
    # Holds for every user: the kernel lets nobody create files there.
    message = problem_of(world.job(output__uri="/proc/rdm_batch/out"))
    assert "/proc/rdm_batch/out" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_in_a_folder_of_somebody_else_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o500)
    message = problem_of(world.job(output__uri=str(tmp_path / "theirs" / "out")))
    assert_says(message, str(tmp_path / "theirs" / "out"), "access denied", "owner and mode")


def test_an_output_with_samples_but_no_header_is_refused(world: World) -> None:
    data = Path(world.document["output"]["uri"]) / "data"
    data.mkdir(parents=True)
    (data / "00000.parquet").write_bytes(b"PAR1")
    message = problem_of(world.document)
    assert_says(message, "holds data/00000.parquet but no sample_set.json", "choose another output")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a JSON object"),
        ("[]", "not a JSON object"),
        ('{"spec": {}}', "digest: is missing"),
        ('{"format_version": 9}', "format version 9"),
    ],
)
def test_an_output_with_a_damaged_header_is_refused(world: World, content: str, words: str) -> None:
    out = Path(world.document["output"]["uri"])
    out.mkdir()
    (out / "sample_set.json").write_text(content)
    assert_says(problem_of(world.document), f"{out}/sample_set.json", words)


@pytest.mark.parametrize(
    "field",
    ["output__uri", "database__uri", "model__checkpoint", "model__architecture"],
)
def test_credentials_in_a_location_are_refused_and_not_repeated(world: World, field: str) -> None:
    document = world.job(**{field: "s3://AKIAKEY:SECRETWORD@bucket/out"})
    with pytest.raises(InvalidJobError, match="carries credentials") as caught:
        parse_job(document, "jobs/a.yaml")
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)
    assert field.replace("__", ".") in str(caught.value)
    assert "SECRETWORD" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


def test_a_location_of_the_wrong_type_does_not_repeat_its_credentials(world: World) -> None:
    with pytest.raises(InvalidJobError) as caught:
        parse_job(world.job(output="s3://AKIAKEY:SECRETWORD@bucket/out"), "jobs/a.yaml")
    assert "output: is 's3://***@bucket/out'" in str(caught.value)
    assert "SECRETWORD" not in str(caught.value)


@pytest.mark.parametrize("field", ["output__uri", "database__uri", "model__checkpoint"])
@pytest.mark.parametrize("uri", ["gs://bucket/out", "https://host/out?token=SECRETWORD"])
def test_an_unsupported_scheme_is_refused(world: World, field: str, uri: str) -> None:
    message = problem_of(world.job(**{field: uri}))
    assert_says(message, "is not supported", "s3://bucket/prefix")
    assert "SECRETWORD" not in message


def test_an_s3_location_without_a_bucket_is_refused(world: World) -> None:
    assert_says(problem_of(world.job(output__uri="s3:///out")), "names no bucket")


@pytest.mark.parametrize(
    ("check", "others"),
    [
        ("rdm_batch.generation.preflight.head_problems", 2),
        ("rdm_batch.generation.preflight.context_problems", 2),
        ("rdm_batch.generation.preflight.score_problems", 2),
        ("rdm_batch.generation.preflight.check_writable", 2),
        ("rdm_batch.generation.preflight.check_layers", 2),
        ("rdm_batch.inputs.resolve.open_references", 1),
        ("rdm_batch.inputs.resolve.open_checkpoint", 2),
        ("rdm_batch.inputs.resolve._open_database", 1),
    ],
)
def test_a_check_that_fails_itself_is_one_problem_beside_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, check: str, others: int
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("s3://user:hidden@host")

    document = world.job(conditioning__k_nn=41, evaluation__reference="/nowhere/reference.npz")
    monkeypatch.setattr(check, fail)
    found = [str(problem) for problem in problems_of(document)]
    (defect,) = [problem for problem in found if "a check failed by itself" in problem]
    assert "KeyError" in defect
    assert "this is a defect of rdm_batch" in defect
    assert "hidden" not in defect
    assert len(found) == others + 1


def test_what_a_check_found_before_it_failed_is_said() -> None:
    def check() -> Iterator[RdmBatchError]:
        yield SpecError("a", "is wrong")
        raise ZeroDivisionError

    first, second = found_by(check)
    assert str(first) == "a: is wrong"
    assert "failed by itself (ZeroDivisionError" in str(second)
