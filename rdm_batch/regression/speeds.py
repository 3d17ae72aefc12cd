"""Gate 4 for the jobs of a suite: in turn with another checkout, or against the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdm_batch.errors import RdmBatchError
from rdm_batch.regression.baseline import Baseline
from rdm_batch.regression.figures import figures_of
from rdm_batch.regression.interleave import TimedRun, check_checkout, run_in_turn
from rdm_batch.regression.records import Figure, Run, Verdict
from rdm_batch.regression.speed import judge_history, judge_pairs
from rdm_batch.regression.suite import Suite, SuiteJob
from rdm_batch.specs.suite import SPEED_FIGURES


@dataclass(frozen=True)
class Turns:
    """Hold what a job has measured, run in turn.

    Args:
        baseline: With the other checkout, run after run.
        candidate: With this one.
    """

    baseline: tuple[tuple[Figure, ...], ...]
    candidate: tuple[tuple[Figure, ...], ...]

    @property
    def names(self) -> set[str]:
        """Return the figures that every run of both sides has measured."""
        runs = [{figure.name for figure in run} for run in (*self.baseline, *self.candidate)]
        return set.intersection(*runs) if runs else set()

    def of(self, name: str) -> tuple[list[Figure], list[Figure]]:
        """Return one figure of both sides; a run without it is left out."""
        sides = (self.baseline, self.candidate)
        first, second = ([f for run in side for f in run if f.name == name] for side in sides)
        return first, second


def take_turns(suite: Suite, job: SuiteJob, against: Path, address: str) -> Turns:
    """Run a job with another checkout and this one in turn, A B B A ...

    Args:
        suite: The suite.
        job: Which of its jobs; nothing is scored.
        against: Folder with the other checkout.
        address: Where to work.

    Raises:
        RegressionError: That is no checkout, or a run fails.
    """
    check_checkout(against)
    here = Path(__file__).parents[2]
    sides = run_in_turn(
        against, here, suite.path.parent / job.entry.job, job.entry.overrides, address=address
    )
    baseline, candidate = (tuple(_figures(job.name, run) for run in side) for side in sides)
    return Turns(baseline, candidate)


def judge_speeds(
    suite: Suite,
    tonight: Run,
    earlier: Sequence[Run],
    baseline: Baseline | None,
    turns: Mapping[str, Turns],
) -> list[Verdict]:
    """Judge the speeds of all jobs that have the gate: one figure of each decides.

    Args:
        suite: The suite.
        tonight: The run, with its figures.
        earlier: Runs of the history, in order.
        baseline: What was accepted. None before the first time.
        turns: Of jobs that were run in turn with another checkout.
    """
    verdicts = []
    runs = [run for run in earlier if run.suite == tonight.suite]
    for job in suite.jobs:
        gate = job.entry.gates.speed
        if gate is None or not any(figure.job == job.name for figure in tonight.figures):
            continue
        accepted = None if baseline is None else baseline.find(job.name, tonight.machine_class)
        known = None if accepted is None else accepted.run
        for name in (gate.primary, *(name for name in SPEED_FIGURES if name != gate.primary)):
            decides = name == gate.primary
            if name in turns.get(job.name, Turns((), ())).names:
                verdicts.append(_in_turn(job.name, name, turns, gate.tolerance, decides))
            elif decides or tonight.figure(job.name, name) is not None:
                verdicts.append(
                    judge_history(tonight, runs, job.name, name, known, gate.tolerance, decides)
                )
    return verdicts


def _in_turn(
    job: str, name: str, turns: Mapping[str, Turns], tolerance: float, decides: bool
) -> Verdict:
    try:
        return judge_pairs(*turns[job].of(name), tolerance, decides)
    except RdmBatchError as error:
        # A figure of 0 has no ratio: what else the night has found is not to be lost for that.
        return Verdict(
            gate="speed",
            job=job,
            figure=name,
            outcome="not_comparable",
            reason=str(error),
            decides=decides,
        )


def _figures(job: str, run: TimedRun) -> tuple[Figure, ...]:
    others = {"peak_memory_bytes": float(run.peak_memory_bytes)}
    return figures_of(run.report, job, run.report.spec_digest, others)
