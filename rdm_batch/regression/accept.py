"""Accept what a run has made as what later runs are held against."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from rdm_batch.errors import RegressionError
from rdm_batch.regression.baseline import Accepted, Baseline, load_baseline, save_baseline
from rdm_batch.regression.history import Contents, History
from rdm_batch.regression.nightly import CANDIDATE
from rdm_batch.regression.records import Run
from rdm_batch.regression.suite import Suite, suggestion
from rdm_batch.specs.messages import first_problem

LATEST = "latest"


def find_run(contents: Contents, wanted: str, where: str, suite: str | None = None) -> Run:
    """Find a run by its id, by the beginning of one, or the latest.

    Args:
        contents: Of a history.
        wanted: What it is called, or ``latest``.
        where: The history, for messages.
        suite: Name of the suite it must be of. None: any.

    Raises:
        RegressionError: There is none, or several begin so.
    """
    runs = [run for run in contents.runs if suite in (None, run.suite)]
    if not runs:
        what = "no run" if suite is None else f"no run of the suite {suite!r}"
        raise RegressionError(where, f"holds {what}", "one", "rdm-batch bench run makes one")
    if wanted == LATEST:
        return runs[-1]
    found = [run for run in runs if run.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RegressionError(where, f"{len(found)} runs begin with {wanted!r}", "more of its name")
    near = suggestion(wanted, [run.id for run in runs])
    raise RegressionError(where, f"holds no run {wanted!r}", "the id of a run", near)


def accept(
    suite: Suite, history: History, wanted: str, reason: str, jobs: Sequence[str] = ()
) -> tuple[Baseline, tuple[Accepted, ...]]:
    """Accept the jobs of a run, and write the suite's baseline.

    Bounds that were accepted from several seeds stay where this run has made none.

    Args:
        suite: The suite.
        history: Where the run is.
        wanted: Which run, as ``find_run`` takes it.
        reason: Why, for whoever reviews the file.
        jobs: Names of the jobs to accept. None of them: all.

    Returns:
        The baseline, and what is new in it.

    Raises:
        RegressionError: There is no such run, it has not finished a job, or the reason is
            empty.
    """
    if len(reason.strip()) < 3:
        raise RegressionError("--reason", "says nothing", "why this is right, for the review")
    run = find_run(history.read(), wanted, history.uri, suite.spec.name)
    known = [job.name for job in suite.jobs]
    for name in jobs:
        if name not in known:
            near = suggestion(name, known)
            raise RegressionError("--job", f"{name} is no job of the suite", ", ".join(known), near)
    baseline = load_baseline(suite.baseline, suite.spec.name) or Baseline(suite=suite.spec.name)
    accepted = []
    for name in jobs or known:
        candidate = _candidate(history, run, name)
        before = baseline.find(name, candidate.machine_class)
        bounds = dict(candidate.bounds)
        if before is not None and before.identity == candidate.identity:
            bounds = dict(before.bounds) | bounds
        changes = {"reason": reason.strip(), "bounds": bounds}
        accepted.append(candidate.model_copy(update=changes))
    new = baseline.replaced(tuple(accepted))
    save_baseline(suite.baseline, new)
    return new, tuple(accepted)


def _candidate(history: History, run: Run, job: str) -> Accepted:
    key = run.artifacts.get(f"{job}.{CANDIDATE}.json")
    if key is None:
        raise RegressionError(
            f"run {run.id}",
            f"has not finished the job {job}",
            "a run of all jobs that are accepted",
            "name the jobs to accept with --job",
        )
    try:
        return Accepted.model_validate_json(history.store.read_bytes(key))
    except ValidationError as error:
        where = history.store.child_uri(key)
        raise RegressionError(where, f"is damaged ({first_problem(error)})") from error
