"""Gate 4 for the jobs of a suite: in turn with another checkout, or against the history.

Of repeats of one job in one night the mean of the middle half counts. What that finds, and what the
median and the best one do, benchmarks/experiments/nights.py compares, from measured repeats.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rdm_batch.cluster.connect import NONE
from rdm_batch.errors import RdmBatchError
from rdm_batch.files import canonical_digest
from rdm_batch.regression.baseline import Baseline
from rdm_batch.regression.figures import figures_of, search_figures
from rdm_batch.regression.interleave import run_in_turn, run_searches, run_timed
from rdm_batch.regression.records import Figure, Run, Verdict
from rdm_batch.regression.speed import judge_history, judge_pairs
from rdm_batch.regression.statistics.middle import middle_half
from rdm_batch.regression.statistics.ratios import MOST_PAIRS, looks_of
from rdm_batch.regression.suite import Suite, SuiteJob

_HERE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Turns:
    """Hold what a job has measured, run in turn.

    Args:
        baseline: With the other checkout, run after run.
        candidate: With this one.
        looks: How often it was to be asked whether they decide.
    """

    baseline: tuple[tuple[Figure, ...], ...]
    candidate: tuple[tuple[Figure, ...], ...]
    looks: int = 1

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


def take_turns(
    suite: Suite,
    job: SuiteJob,
    against: Path,
    address: str,
    pairs: int = MOST_PAIRS,
    done: Callable[[], None] = lambda: None,
) -> Turns:
    """Run a job with another checkout and this one in turn, A B B A ..., until it is decided.

    Args:
        suite: The suite.
        job: Which of its jobs; nothing is scored.
        against: Folder with the other checkout.
        address: Where to work.
        pairs: Runs of each that are counted, at most.
        done: Called after every run.

    Raises:
        RegressionError: That is no checkout, there are too few pairs, or a run fails.
    """
    gate, looks = job.entry.gates.speed, looks_of(pairs)
    assert gate is not None

    def turns(*sides: Sequence[tuple[Figure, ...]]) -> Turns:
        return Turns(tuple(sides[0]), tuple(sides[1]), len(looks))

    def decided(*sides: Sequence[tuple[Figure, ...]]) -> bool:
        found = turns(*sides)
        if gate.primary not in found.names:
            return False
        verdict = _in_turn(job.name, gate.primary, found, gate.tolerance, True)
        return verdict.outcome != "undecided"

    measure = partial(_measure, suite, job, address)
    return turns(*run_in_turn(against, _HERE, measure, looks, decided, done))


def repeat_job(
    suite: Suite, job: SuiteJob, address: str, done: Callable[[], None] = lambda: None
) -> tuple[Figure, ...]:
    """Run a job, or its searches, as often as its gate says, each time in a process of its own.

    Args:
        suite: The suite.
        job: Which of its jobs; it has the gate.
        address: Where to work.
        done: Called after every run.

    Returns:
        Of each figure that all runs have measured the mean of the middle half, with all values
        beside it. Its description says how often it was measured: five runs and three do not
        compare.

    Raises:
        RegressionError: A run fails.
    """
    gate = job.entry.gates.speed
    assert gate is not None
    runs: list[tuple[Figure, ...]] = []
    with tempfile.TemporaryDirectory(prefix="rdm_batch-repeats-") as work:
        for number in range(gate.repeats):
            output = Path(work) / f"{number}"
            runs.append(_measure(suite, job, address, _HERE, output))
            shutil.rmtree(output, ignore_errors=True)
            done()
    of_each = [{figure.name: figure for figure in run} for run in runs]
    shared = set.intersection(*(set(one) for one in of_each))
    return tuple(
        middle_of([one[figure.name] for one in of_each])
        for figure in runs[0]
        if figure.name in shared and figure.kind != "quality"
    )


def middle_of(figures: Sequence[Figure]) -> Figure:
    """Give the mean of the middle half of what one night measured of a figure, with all values.

    Args:
        figures: In the order they were measured; of one description.
    """
    first = figures[0]
    values = tuple(figure.value for figure in figures)
    description = {"measured": first.description, "middle half of": len(values)}
    return first.model_copy(
        update={
            "value": float(middle_half(np.array([values]))[0]),
            "values": values,
            "description": canonical_digest(description, escape=False),
        }
    )


def with_repeats(figures: Sequence[Figure], repeated: Sequence[Figure]) -> tuple[Figure, ...]:
    """Put what was measured by repeats in the place of what the one scored run has measured.

    Args:
        figures: Of the scored run, some with floors, which stay.
        repeated: By ``repeat_job``.
    """
    better = {(figure.job, figure.name): figure for figure in repeated}
    found = [
        better.pop((figure.job, figure.name), figure).model_copy(update={"floor": figure.floor})
        for figure in figures
    ]
    return (*found, *better.values())


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
        for name in (gate.primary, *(name for name in gate.figures if name != gate.primary)):
            decides = name == gate.primary
            taken = turns.get(job.name, Turns((), ()))
            if name in taken.names:
                verdicts.append(_in_turn(job.name, name, taken, gate.tolerance, decides))
            elif decides or tonight.figure(job.name, name) is not None:
                verdicts.append(
                    judge_history(tonight, runs, job.name, name, known, gate.tolerance, decides)
                )
    return verdicts


def _in_turn(job: str, name: str, turns: Turns, tolerance: float, decides: bool) -> Verdict:
    try:
        return judge_pairs(*turns.of(name), tolerance, decides, turns.looks)
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


def _measure(
    suite: Suite, job: SuiteJob, address: str, checkout: Path, output: Path
) -> tuple[Figure, ...]:
    """Measure a job once with a checkout, or its searches alone where its gate says so."""
    gate = job.entry.gates.speed
    assert gate is not None
    path, overrides = suite.path.parent / job.entry.job, job.entry.overrides
    if gate.searches is not None:
        found = run_searches(checkout, path, output, overrides, gate.searches)
        return search_figures(found.latency, job.name, found.identity)
    run = run_timed(checkout, path, output, overrides, address)
    others = {}
    if address == NONE:
        # On Ray the work is done by other processes than the one that was measured.
        others = {"peak_memory_bytes": float(run.peak_memory_bytes), "cpu_s": run.cpu_s}
    return figures_of(run.report, job.name, run.report.spec_digest, others)
