"""Git is driven over real commits; what each of them makes is written into it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rdm_batch.cli import main
from rdm_batch.errors import RegressionError
from rdm_batch.metrics.pairing import Influences
from rdm_batch.regression import bisect as module
from rdm_batch.regression.bisect import Found, Tier, _Made, bisect
from rdm_batch.regression.suite import load_suite
from rdm_batch.reports.progress import Progress
from rdm_batch.storage.png import encode_png
from tests.job_kit import job_document, write_job
from tests.regression.kit import make_canary, make_images, make_night
from tests.regression.test_suite import write_suite

ROOT = Path(__file__).parents[2]
PROGRAM = """
from pathlib import Path

# The program of the working tree, but for what this commit does to bytes of images.
real = Path({real!r})
__path__.append(str(real))
exec(compile((real / "__init__.py").read_text(), str(real / "__init__.py"), "exec"))

import numpy as np
from rdm_batch.storage import png

encode = png.encode_png
brighter = int((Path(__file__).parents[1] / "value").read_text())
png.encode_png = lambda image: encode(
    np.clip(image.astype(np.int16) + brighter, 0, 255).astype(np.uint8)
)
"""


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def made_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a commit make what its file says: a byte, and a score."""

    def make(self: Any, commit: str) -> _Made:
        module._git(self._tree, "checkout", "--quiet", "--detach", commit)
        text = (self._tree / "value").read_text()
        if text == "broken":
            raise RegressionError("the job", "ended with status 1")
        images = make_images(8)
        images[2][0, 0, 0] = int(text)
        canary = make_canary(images=tuple(map(encode_png, images)))
        influences: Influences = make_night().influences["fid"]  # type: ignore[index]
        return _Made(canary, 10.0 + int(text) / 100, influences)

    monkeypatch.setattr(module._Searching, "_make", make)


def repository(folder: Path, *values: str) -> list[str]:
    """Make one commit for each value; give their names."""
    folder.mkdir()
    git(folder, "init", "--quiet")
    commits = []
    for number, value in enumerate(values):
        (folder / "value").write_text(value)
        git(folder, "add", "value")
        git(folder, "commit", "--quiet", "--allow-empty", "-m", f"change {number}")
        commits.append(git(folder, "rev-parse", "HEAD"))
    return commits


def searched(folder: Path, good: str, bad: str, tier: Tier = "identity") -> Found:
    gates = {"paired": {"primary": "fid", "delta": {"fid": 0.5}}}
    (folder / "suite").mkdir(exist_ok=True)
    suite = load_suite(write_suite(folder / "suite", job={"gates": gates}))
    with Progress() as progress:
        file = Path("unused")
        return bisect(good, bad, suite.jobs[0], file, tier, progress, folder / "repository")


@pytest.mark.usefixtures("made_by")
def test_the_first_commit_that_changes_a_byte_is_found(tmp_path: Path) -> None:
    values = ["20", "20", "20", "20", "21", "21", "90", "90"]
    commits = repository(tmp_path / "repository", *values)
    found = searched(tmp_path, commits[0], commits[-1])
    assert (found.commit, found.subject) == (commits[4], "change 4")
    assert {step.said for step in found.steps} == {"good", "bad"}
    assert "images of 1 of 8 samples, largest byte difference 1" in " ".join(
        step.reason for step in found.steps
    )
    # Nothing is left behind, and the working tree is as it was.
    assert git(tmp_path / "repository", "worktree", "list").count("\n") == 0
    assert git(tmp_path / "repository", "status", "--porcelain") == ""
    assert git(tmp_path / "repository", "rev-parse", "HEAD") == commits[-1]


@pytest.mark.usefixtures("made_by")
def test_the_first_commit_that_moves_the_score_by_more_than_delta_is_found(tmp_path: Path) -> None:
    values = ["20", "20", "21", "21", "22", "90", "90"]
    commits = repository(tmp_path / "repository", *values)
    found = searched(tmp_path, commits[0], commits[-1], "paired")
    assert found.commit == commits[5]


@pytest.mark.usefixtures("made_by")
def test_commits_that_cannot_run_are_skipped_and_may_hide_it(tmp_path: Path) -> None:
    commits = repository(tmp_path / "repository", "20", "20", "broken", "90", "90")
    found = searched(tmp_path, commits[0], commits[-1])
    assert found.commit is None
    assert [step.reason for step in found.steps if step.said == "skip"] == [
        "the job: ended with status 1"
    ]


@pytest.mark.usefixtures("made_by")
def test_a_commit_right_after_the_good_one_is_found(tmp_path: Path) -> None:
    commits = repository(tmp_path / "repository", "20", "90")
    assert searched(tmp_path, commits[0], commits[1]).commit == commits[1]


@pytest.mark.usefixtures("made_by")
def test_ends_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    commits = repository(tmp_path / "repository", "20", "20", "90")
    with pytest.raises(RegressionError, match="is no worse than"):
        searched(tmp_path, commits[0], commits[1])
    with pytest.raises(RegressionError, match="does not come before"):
        searched(tmp_path, commits[2], commits[0])
    for name in ("nowhere", "--help"):
        with pytest.raises(RegressionError, match="is no commit"):
            searched(tmp_path, name, commits[0])


def test_a_job_that_the_suite_does_not_have_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = str(write_suite(tmp_path))
    assert main(["bench", "bisect", "a", "b", "--suite", suite, "--job", "quik"]) == 1
    assert "quik is no job of the suite; needed quick; did you mean quick?" in (
        capsys.readouterr().err
    )


def test_the_program_of_every_commit_is_run_and_judged_by_both_gates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = job_document(tmp_path)
    document["output"]["shard_size"] = 24
    document["sampling"] |= {"batch_size": 24, "num_steps": 2}
    document["evaluation"]["scores"] = ["fid"]
    write_job(tmp_path / "job.yaml", document)
    entry = {
        "name": "tiny",
        "job": "job.yaml",
        "canary": 8,
        "gates": {"paired": {"primary": "fid", "delta": {"fid": 1e-8}}},
    }
    suite = {"kind": "suite", "name": "test", "baseline": "b.yaml", "output": str(tmp_path / "out")}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite | {"jobs": [entry]}))

    folder = tmp_path / "repository"
    (folder / "rdm_batch").mkdir(parents=True)
    program = PROGRAM.format(real=str(ROOT / "rdm_batch"))
    (folder / "rdm_batch" / "__init__.py").write_text(program)
    git(folder, "init", "--quiet")
    commits = []
    # A byte more brightness moves the score of these random networks (7.6e-7) by 5e-10, 90 by 2e-7.
    for number, value in enumerate(["0", "1", "90"]):
        (folder / "value").write_text(value)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", f"change {number}")
        commits.append(git(folder, "rev-parse", "HEAD"))
    monkeypatch.chdir(folder)
    for gate, first in (("identity", 1), ("paired", 2)):
        suited = ("--suite", str(tmp_path / "suite.yaml"), "--job", "tiny", "--gate", gate)
        assert main(["bench", "bisect", commits[0], commits[first], *suited]) == 0
        said = capsys.readouterr().out
        assert f"first bad commit: {commits[first]} change {first}" in said
        if gate == "identity":
            assert "images of 8 of 8 samples, largest byte difference 1" in said
        else:
            assert "fid moved by" in said
    assert git(folder, "status", "--porcelain") == ""
    assert git(folder, "worktree", "list").count("\n") == 0
