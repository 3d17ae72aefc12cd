"""Find the commit that changed samples or scores: ``git bisect`` over gate 0 or gate 2.

Every step draws and scores the job with the program of one commit, in a process of its own, and is
judged here, by the program of today: commits from before there were gates can be searched as well.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rdm_batch.errors import RdmBatchError, RegressionError
from rdm_batch.evaluation.commands import evaluate_images
from rdm_batch.evaluation.evaluate import EvaluationRequest
from rdm_batch.metrics.pairing import Influences, paired_error
from rdm_batch.regression.canary import Canary, take_canary
from rdm_batch.regression.closeness import compare_canaries
from rdm_batch.regression.interleave import check_checkout, run_timed
from rdm_batch.regression.statistics.equivalence import equivalence
from rdm_batch.regression.suite import SuiteJob
from rdm_batch.reports.progress import Progress

Tier = Literal["identity", "paired"]
Said = Literal["good", "bad", "skip"]
_FIRST_BAD = re.compile(r"^([0-9a-f]{40}) is the first bad commit", re.MULTILINE)
_LEFT = re.compile(r"only 'skip'ped commits left", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """What was found of one commit.

    Args:
        commit: Its full name.
        said: Whether it is as the good one; ``skip`` where that cannot be said.
        reason: Why.
    """

    commit: str
    said: Said
    reason: str


@dataclass(frozen=True)
class Found:
    """Where a search has ended.

    Args:
        commit: The first bad one. None where skipped commits hide it.
        subject: The first line of its message.
        steps: What was found of every commit that was tried, in order.
    """

    commit: str | None
    subject: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class _Made:
    """What one commit has made of the job."""

    canary: Canary
    score: float | None
    influences: Influences | None


def bisect(
    good: str,
    bad: str,
    job: SuiteJob,
    file: Path,
    tier: Tier,
    progress: Progress,
    repository: Path,
) -> Found:
    """Search the commits between a good and a bad one.

    The working tree is left alone: commits are checked out beside it.

    Args:
        good: A commit that made what is right.
        bad: One after it that does not.
        job: The job that tells them apart; its gate 2 says by how much a score may move.
        file: Its job file.
        tier: ``identity`` finds the first commit that changes a byte of the canary, ``paired`` the
            first that moves the primary score by more than its delta.
        progress: Shows the stages.
        repository: Where the commits are.

    Raises:
        RegressionError: The commits are none, or both make the same.
    """
    if tier == "paired" and job.entry.gates.paired is None:
        raise RegressionError(
            f"job {job.name}", "has no gate `paired`", "a primary score and its delta"
        )
    ends = [_commit(repository, name) for name in (good, bad)]
    if _git(repository, "merge-base", *ends).strip() != ends[0]:
        raise RegressionError(good, f"does not come before {bad}", f"a commit that {bad} builds on")
    with (
        tempfile.TemporaryDirectory(prefix="rdm_batch-bisect-") as work,
        _checkout(repository, Path(work) / "tree", ends[0]) as tree,
    ):
        searching = _Searching(tree, Path(work), job, file, tier, progress)
        searching.begin(*ends)
        return searching.search(*ends)


class _Searching:
    def __init__(
        self, tree: Path, work: Path, job: SuiteJob, file: Path, tier: Tier, progress: Progress
    ) -> None:
        self._tree, self._work = tree, work
        self._job, self._file, self._tier = job, file, tier
        self._progress = progress
        self._right: _Made | None = None
        self._steps: list[Step] = []

    def begin(self, good: str, bad: str) -> None:
        """Make what is right, and make sure that the other end differs from it."""
        self._right = self._make(good)
        step = self._judge(bad)
        if step.said != "bad":
            raise RegressionError(
                f"commit {bad[:12]}",
                f"is no worse than {good[:12]}: {step.reason}",
                "two commits that differ in what the gate looks at",
                "try the other gate, or commits further apart",
            )

    def search(self, good: str, bad: str) -> Found:
        """Let git choose commits until one is left."""
        answer = _git(self._tree, "bisect", "start", bad, good)
        while True:
            first = _FIRST_BAD.search(answer)
            if first is not None:
                subject = _git(self._tree, "log", "-1", "--format=%s", first[1]).strip()
                return Found(first[1], subject, tuple(self._steps))
            if _LEFT.search(answer):
                return Found(None, "", tuple(self._steps))
            step = self._judge(_git(self._tree, "rev-parse", "HEAD").strip())
            answer = _git(self._tree, "bisect", step.said, check=False)

    def _judge(self, commit: str) -> Step:
        with self._progress.step(f"commit {commit[:12]}"):
            try:
                said, reason = self._compare(self._make(commit))
            except RdmBatchError as error:
                said, reason = "skip", str(error)
        step = Step(commit, said, reason)
        self._steps.append(step)
        return step

    def _make(self, commit: str) -> _Made:
        _git(self._tree, "checkout", "--quiet", "--detach", commit)
        check_checkout(self._tree)
        output = self._work / commit
        report = run_timed(
            self._tree, self._file, output, self._job.entry.overrides, scored=True
        ).report
        spec = self._job.at(str(output))
        canary = take_canary(str(output), spec, self._job.entry.canary)
        gate = self._job.entry.gates.paired
        if self._tier == "identity" or gate is None or spec.evaluation is None:
            return _Made(canary, None, None)
        # The value is that commit's, what each sample does to it is found here.
        request = EvaluationRequest(str(output), spec.evaluation, spec.database, influences=True)
        influences = evaluate_images(request, "none").influences()
        scores = {score.id: score.value for score in report.scores}
        return _Made(canary, scores.get(gate.primary), influences.get(gate.primary))

    def _compare(self, made: _Made) -> tuple[Said, str]:
        right = self._right
        assert right is not None
        if self._tier == "identity":
            differences = compare_canaries(right.canary, made.canary)
            if not differences:
                return "good", f"all {len(made.canary.indices):,} samples are the same"
            return "bad", "; ".join(map(str, differences))
        gate = self._job.entry.gates.paired
        assert gate is not None
        if right.score is None or made.score is None:
            return "skip", f"{gate.primary} was not computed"
        if right.influences is None or made.influences is None:
            return "skip", f"what each sample does to {gate.primary} is not known"
        test = equivalence(
            made.score - right.score,
            paired_error(right.influences, made.influences),
            len(right.influences.ids),
            gate.delta[gate.primary],
        )
        said: dict[str, Said] = {"pass": "good", "fail": "bad", "undecided": "skip"}
        reason = (
            f"{gate.primary} moved by {test.difference:+.3g} ({test.low:+.3g} to {test.high:+.3g})"
        )
        return said[test.outcome], reason


@contextmanager
def _checkout(repository: Path, tree: Path, commit: str) -> Iterator[Path]:
    """Check a commit out beside the working tree, for the duration of a block."""
    _git(repository, "worktree", "add", "--quiet", "--detach", str(tree), commit)
    try:
        yield tree
    finally:
        _git(repository, "worktree", "remove", "--force", str(tree), check=False)


def _commit(repository: Path, name: str) -> str:
    if name.startswith("-"):
        raise RegressionError(name, "is no commit", "a commit, a tag or a branch")
    answer = _run(repository, ["rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"])
    if answer.returncode:
        raise RegressionError(name, f"is no commit of {repository}", "a commit, a tag or a branch")
    return answer.stdout.strip()


def _git(folder: Path, *arguments: str, check: bool = True) -> str:
    answer = _run(folder, arguments)
    if check and answer.returncode:
        said = " ".join(answer.stderr.split())
        raise RegressionError(
            f"git {arguments[0]}", f"failed ({said})", "", "see git's own message"
        )
    return answer.stdout


def _run(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RegressionError("git", "is not installed", "git, to search commits") from None
