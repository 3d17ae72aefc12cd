"""One run of a suite: make every job anew, measure it, judge it, and add it to the history."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from rdm_batch.cluster.connect import NONE, connected
from rdm_batch.cluster.local import LocalCluster, local_resources
from rdm_batch.cluster.pool import Cluster, device_for
from rdm_batch.errors import RdmBatchError
from rdm_batch.evaluation.kept import influences_bytes
from rdm_batch.generation.head_worker import plan_resources
from rdm_batch.generation.job import JobRun
from rdm_batch.generation.preflight import CheckedJob, preflight
from rdm_batch.generation.submission import default_address
from rdm_batch.heads.work import flops_per_sample
from rdm_batch.regression.baseline import (
    Accepted,
    AcceptedBounds,
    AcceptedObject,
    AcceptedScore,
    Baseline,
)
from rdm_batch.regression.canary import canary_bytes, take_canary
from rdm_batch.regression.figures import describe_score, figures_of
from rdm_batch.regression.floor import measure_floor
from rdm_batch.regression.gates import judge_jobs
from rdm_batch.regression.history import History, new_run_id
from rdm_batch.regression.judging import CANARY, INFLUENCES, JobNight
from rdm_batch.regression.memory import peak_memory
from rdm_batch.regression.records import Figure, Gate, Run, Verdict, machine_class
from rdm_batch.regression.speeds import (
    Turns,
    judge_speeds,
    repeat_job,
    take_turns,
    with_repeats,
)
from rdm_batch.regression.statistics.bounds import bounds_from_seeds
from rdm_batch.regression.statistics.ratios import MOST_PAIRS
from rdm_batch.regression.suite import Suite, SuiteJob
from rdm_batch.reports.progress import Progress
from rdm_batch.reports.provenance import describe_machine, git_commit, software_versions
from rdm_batch.reports.run_report import RunReport
from rdm_batch.reports.saved import SavedRun, save_run
from rdm_batch.reports.units import format_count
from rdm_batch.specs.scores import Score
from rdm_batch.storage.manifest import epoch_s

CANDIDATE = "candidate"
"""What may be accepted of a job, kept beside its canary."""


@dataclass(frozen=True)
class _Made:
    """What came of one job."""

    night: JobNight
    candidate: Accepted
    figures: tuple[Figure, ...]
    page: str


def run_suite(
    suite: Suite,
    checked: Sequence[CheckedJob],
    run_id: str,
    history: History,
    baseline: Baseline | None,
    address: str | None,
    progress: Progress,
    seeds: int = 1,
    against: Path | None = None,
    pairs: int = MOST_PAIRS,
) -> Run:
    """Run every job of a suite, judge what it gives, and add the run to a history.

    A job that fails does not keep the others from running; it passes no gate.

    Args:
        suite: The suite.
        checked: Its jobs, by ``check_jobs``.
        run_id: By ``new_run_id``.
        history: Where the run is added.
        baseline: What it is held against. None before anything was accepted.
        address: Where to work, as ``generation.job.run`` takes it.
        progress: Shows the stages.
        seeds: With how many seeds jobs with bounds are run: several give bounds to accept.
        against: Folder with another checkout of this program. Where it is given, gate 4 runs both
            in turn instead of looking at the history.
        pairs: How often each of the two is run then, at most.

    Returns:
        The run as it was stored.

    Raises:
        RdmBatchError: There is nowhere to work, or the run cannot be stored.
    """
    address = address or default_address()
    if address in (NONE, "local"):
        for job in checked:
            planned = plan_resources(job.spec, local_resources(), len(job.shards))
            job.model.check_machine(device_for(planned.num_gpus))
    running = _Running(suite, run_id, history, progress, seeds)
    if against is not None:
        running.run_in_turn(against, address, pairs)
    else:
        running.repeat(address)
    with connected(address) as cluster:
        for job, entry in zip(checked, suite.jobs, strict=True):
            running.make(cluster, job, entry)
    return running.finish(baseline)


class _Running:
    def __init__(
        self, suite: Suite, run_id: str, history: History, progress: Progress, seeds: int
    ) -> None:
        self._suite, self._run_id, self._history = suite, run_id, history
        self._progress, self._seeds = progress, seeds
        self._started = datetime.now(UTC)
        self._commit, self._dirty = _commit()
        self._versions = software_versions()
        self._machine = describe_machine()
        self._class = machine_class(self._machine)
        self._made: list[_Made] = []
        self._failed: list[Verdict] = []
        self._others: list[Figure] = []
        self._artifacts: dict[str, str] = {}
        self._turns: dict[str, Turns] = {}
        self._repeated: list[Figure] = []

    def run_in_turn(self, against: Path, address: str, pairs: int) -> None:
        """Run every job that gate 4 judges with another checkout and this one in turn."""
        for job in self._suite.jobs:
            if job.entry.gates.speed is not None:
                try:
                    with self._progress.step(f"job {job.name} with both checkouts in turn"):
                        self._turns[job.name] = take_turns(
                            self._suite, job, against, address, pairs
                        )
                except RdmBatchError as error:
                    self._fail(job.name, "speed", error)

    def repeat(self, address: str) -> None:
        """Run every job whose speed is to be measured more than once."""
        for job in self._suite.jobs:
            gate = job.entry.gates.speed
            if gate is not None and gate.repeated:
                what = "job" if gate.searches is None else "searches of"
                times = format_count(gate.repeats, "time")
                try:
                    with self._progress.step(f"{what} {job.name} {times} for its speed"):
                        self._repeated += repeat_job(self._suite, job, address)
                except RdmBatchError as error:
                    self._fail(job.name, "speed", error)

    def make(self, cluster: Cluster, job: CheckedJob, entry: SuiteJob) -> None:
        """Make, score and keep one job, with every seed where it has bounds."""
        try:
            made = self._once(cluster, job, entry)
            if self._seeds > 1 and entry.entry.gates.bounds:
                made = self._with_bounds(cluster, entry, made)
        except RdmBatchError as error:
            gate: Gate = "identity" if entry.entry.gates.identity else "paired"
            self._fail(entry.name, gate, error)
            return
        self._keep(f"{entry.name}.{CANDIDATE}.json", made.candidate.model_dump_json().encode())
        self._made.append(made)

    def _fail(self, job: str, gate: Gate, error: RdmBatchError) -> None:
        reason = f"did not finish: {error}"
        self._failed.append(Verdict(gate=gate, job=job, outcome="fail", reason=reason))

    def finish(self, baseline: Baseline | None) -> Run:
        """Judge what was made, and add the run to the history."""
        nights = [made.night for made in self._made]
        judged = judge_jobs(nights, baseline, self._history)
        figures = [*(f for made in self._made for f in made.figures), *self._others]
        classes = {night.machine_class for night in nights}
        run = Run(
            id=self._run_id,
            started=self._started,
            commit=self._commit,
            dirty=self._dirty,
            versions=self._versions,
            machine=self._machine,
            machine_class=classes.pop() if len(classes) == 1 else self._class,
            suite=self._suite.spec.name,
            suite_digest=self._suite.digest,
            baseline=None if baseline is None else baseline.digest,
            figures=with_repeats(figures, self._repeated),
            verdicts=(*(v for verdicts in judged for v in verdicts), *self._failed),
            pages={made.night.name: made.page for made in self._made},
            artifacts=self._artifacts,
        )
        speeds = judge_speeds(self._suite, run, self._history.read().runs, baseline, self._turns)
        verdicts = (*run.verdicts, *speeds)
        return self._history.append(run.model_copy(update={"verdicts": verdicts}))

    def _once(self, cluster: Cluster, job: CheckedJob, entry: SuiteJob) -> _Made:
        uri = job.spec.output.uri
        with self._progress.step(f"job {entry.name}"), peak_memory() as peak:
            run = JobRun(job, epoch_s(), influences=True)
            saved = run.complete(cluster, self._progress)
        page = save_run(uri, saved)
        canary = take_canary(uri, job.spec, entry.entry.canary)
        influences = {} if run.evaluated is None else run.evaluated.influences()
        objects = {
            CANARY: self._keep(f"{entry.name}.{CANARY}.parquet", canary_bytes(canary)),
            INFLUENCES: self._keep(
                f"{entry.name}.{INFLUENCES}.parquet", influences_bytes(influences)
            ),
        }
        others = {}
        # Heads of a cluster are processes of their own, whose memory this one does not know.
        if peak.num_bytes is not None and isinstance(cluster, LocalCluster):
            others["peak_memory_bytes"] = peak.num_bytes
        night = JobNight(
            name=entry.name,
            gates=entry.entry.gates,
            machine_class=self._class_of(saved),
            versions=self._versions,
            identity=job.header.digest,
            seed=job.spec.sampling.seed,
            canary=canary,
            scores=saved.report.scores,
            influences=influences,
        )
        candidate = Accepted(
            job=entry.name,
            machine_class=night.machine_class,
            run=self._run_id,
            started=self._started,
            commit=self._commit,
            dirty=self._dirty,
            reason="not accepted",
            versions=self._versions,
            identity=night.identity,
            seed=night.seed,
            samples=len(canary.indices),
            digests=canary.digests(),
            scores={score.id: _accepted(score) for score in saved.report.scores},
            objects=objects,
        )
        with self._progress.step("measure what is possible"):
            floors = _floors(job, saved.report)
        figures = figures_of(saved.report, entry.name, night.identity, others, floors)
        return _Made(night, candidate, figures, page)

    def _with_bounds(self, cluster: Cluster, entry: SuiteJob, made: _Made) -> _Made:
        """Make the job with further seeds, and find where the scores of one more should lie."""
        found: dict[str, list[Score]] = {score.id: [score] for score in made.night.scores}
        for number in range(1, self._seeds):
            seed = made.night.seed + number
            name = f"{entry.name}@seed={seed}"
            spec = entry.at(self._suite.output_of(self._run_id, name), seed)
            job = preflight(spec, str(self._suite.path), self._versions)
            with self._progress.step(f"job {name}"):
                saved = JobRun(job, epoch_s()).complete(cluster, self._progress)
            save_run(spec.output.uri, saved)
            self._others += figures_of(saved.report, name, job.header.digest)
            for score in saved.report.scores:
                found.setdefault(score.id, []).append(score)
        bounds = {name: _bounds(scores) for name, scores in found.items()}
        candidate = made.candidate.model_copy(update={"bounds": bounds})
        return _Made(made.night, candidate, made.figures, made.page)

    def _keep(self, name: str, data: bytes) -> AcceptedObject:
        key = self._history.keep(self._run_id, name, data)
        self._artifacts[name] = key
        return AcceptedObject(key=key, sha256=hashlib.sha256(data).hexdigest())

    def _class_of(self, saved: SavedRun) -> str:
        """Name what the samples were made on: GPUs of a cluster are not this machine's."""
        devices = [name for name in saved.report.sample_set.device_classes if name != "cpu"]
        return ", ".join(devices) if devices else self._class


def start_run(history: History, baseline: Baseline | None) -> tuple[str, tuple[str, ...]]:
    """Make sure that a run can be stored and judged; give its name, and what a reader should know.

    Raises:
        RegressionError: The history cannot be written, or holds something else.
    """
    history.check_writable()
    contents = history.read()
    started = datetime.now(UTC)
    notes = [*contents.unread, *contents.backwards]
    if contents.runs and started < contents.runs[-1].started:
        notes.append(
            f"the clock says {started:%Y-%m-%d %H:%M:%S} UTC, before the last run "
            f"{contents.runs[-1].id} started: one of the clocks is wrong; runs keep the order "
            "they are stored in"
        )
    if baseline is None:
        notes.append("nothing was accepted yet: this run can only be the first to be accepted")
    return new_run_id(started), tuple(notes)


def _accepted(score: Score) -> AcceptedScore:
    return AcceptedScore(
        value=score.value, error=score.uncertainty, description=describe_score(score)
    )


def _bounds(scores: Sequence[Score]) -> AcceptedBounds:
    bounds = bounds_from_seeds(np.array([score.value for score in scores]))
    return AcceptedBounds(
        low=bounds.low,
        high=bounds.high,
        seeds=len(scores),
        description=describe_score(scores[0]),
    )


def _floors(job: CheckedJob, report: RunReport) -> dict[str, float]:
    """Measure how many images a second the products of matrices alone would allow.

    On GPUs by the rate that heads measure when they start, else by this machine's.
    """
    model, spec = job.model, job.spec
    if model.architecture is None:
        return {}
    peaks = [head.peak_flops_per_s for head in report.throughput.heads]
    known = [peak for peak in peaks if peak]
    rate = sum(known) if known and len(known) == len(peaks) else measure_floor()
    weaker = None if model.weaker is None else model.weaker.architecture
    work = flops_per_sample(model.architecture, spec.sampling, spec.conditioning.k_nn, weaker)
    return {"images_per_s": rate / work} if work else {}


def _commit() -> tuple[str | None, bool]:
    found = git_commit()
    if found is None:
        return None, False
    return found.removesuffix("-dirty"), found.endswith("-dirty")
