"""Check every cell of a sweep, and say what the whole will take, before anything is started."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rdm_batch.errors import InvalidJobError, SampleSetError, SpecError
from rdm_batch.generation.plan import most_evaluations, plan_shards
from rdm_batch.generation.preflight import CheckedJob, preflight
from rdm_batch.inputs.resolve import Openings
from rdm_batch.reports.provenance import software_versions
from rdm_batch.reports.units import format_duration, format_number
from rdm_batch.specs.job import JobSpec
from rdm_batch.storage.manifest import HEADER_KEY, Measured, ShardEntry
from rdm_batch.storage.object_store import open_store
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.sweeps.cells import Cell, Sweep, load_sweep, per_cell


@dataclass(frozen=True)
class CheckedSweep:
    """A sweep that may run: every cell was checked as a job of its own.

    Args:
        sweep: As its file describes it.
        jobs: The job of each cell, opened.
    """

    sweep: Sweep
    jobs: tuple[CheckedJob, ...]


def check_sweep(sweep: Sweep) -> CheckedSweep:
    """Open everything the cells name, each thing once, and check every cell against it.

    Raises:
        InvalidJobError: Something is missing or does not fit; all of it is listed, with the cells
            it is about.
    """
    if open_store(sweep.uri).exists(HEADER_KEY):
        problem = SampleSetError(
            sweep.uri, "holds a sample set", "nothing, or a sweep", "choose another output location"
        )
        raise InvalidJobError(sweep.where, (problem,))
    openings, software = Openings(), software_versions()
    checks = [partial(preflight, cell.job, sweep.where, software, openings) for cell in sweep.cells]
    jobs = per_cell(sweep.where, [cell.name for cell in sweep.cells], checks)
    first: dict[str, str] = {}
    problems = []
    for cell, job in zip(sweep.cells, jobs, strict=True):
        other = first.setdefault(job.header.digest, cell.name)
        if other != cell.name:
            found = f"cells {other} and {cell.name} have one identity: their samples are the same"
            needed = "cells that differ in what defines the samples"
            problems.append(SpecError("sweep", found, needed, "leave one out"))
    if problems:
        raise InvalidJobError(sweep.where, tuple(problems))
    return CheckedSweep(sweep, tuple(jobs))


def dry_run(path: Path, overrides: Sequence[str]) -> tuple[str, bool]:
    """Describe what keeps a sweep from running, if anything, and what it will take.

    Args:
        path: The file.
        overrides: ``key.path=value`` strings.

    Returns:
        The description, and whether the sweep is ready to run.

    Raises:
        RdmBatchError: The file itself is wrong. Missing or unfit files are no failure of a dry
            run; they are listed.
    """
    sweep = load_sweep(path, overrides)
    plan = list(describe_sweep(sweep))
    try:
        check_sweep(sweep)
    except InvalidJobError as error:
        lines = [f"{path}: not ready to run, {error.found}"]
        lines += [f"  - {problem}" for problem in error.problems]
        return "\n".join([*lines, "the plan, once they are solved:", *plan]), False
    return "\n".join([f"{path}: ready to run, {len(sweep.cells):,} cells", *plan]), True


def describe_sweep(sweep: Sweep) -> Iterator[str]:
    """Say in lines what a sweep will do, from its file and from what is stored already."""
    stored = [_stored(cell.job) for cell in sweep.cells]
    costs = _seconds_each(sweep.cells, stored)
    total = sum(cell.job.sampling.num_samples for cell in sweep.cells)
    missing = [
        cell.job.sampling.num_samples - sum(entry.num_rows for entry in entries)
        for cell, entries in zip(sweep.cells, stored, strict=True)
    ]
    yield f"axes       {', '.join(sweep.axes) or 'none'}"
    yield f"samples    {total:,} in {len(sweep.cells):,} cells, {sum(missing):,} to be made"
    evaluations = sum(
        left * most_evaluations(cell.job.sampling)
        for left, cell in zip(missing, sweep.cells, strict=True)
    )
    if evaluations:
        yield f"work       {evaluations:,} network evaluations of single images"
    known = [cost is not None for cost in costs]
    if all(known):
        seconds = sum(left * (cost or 0.0) for left, cost in zip(missing, costs, strict=True))
        yield f"time       {format_duration(seconds)} of one head, as measured before"
    else:
        yield (
            f"time       not known: of {known.count(False):,} cells nothing was measured yet "
            "(a first shard tells)"
        )
    yield f"scores     {_scores(sweep)}"
    yield f"output     {sweep.uri}"
    width = max(len(cell.name) for cell in sweep.cells)
    yield f"{'cell':{width}}  {'samples':>10}  {'to make':>10}  {'s an image':>10}  per image"
    for place, (cell, left, cost) in enumerate(zip(sweep.cells, missing, costs, strict=True)):
        each = most_evaluations(cell.job.sampling)
        rate = "-" if cost is None else format_number(cost)
        note = "  (base)" if place == sweep.base else ""
        yield (
            f"{cell.name:{width}}  {cell.job.sampling.num_samples:>10,}  {left:>10,}  {rate:>10}  "
            f"{f'{each:,} evaluations' if each else '-'}{note}"
        )


def _scores(sweep: Sweep) -> str:
    evaluation = sweep.cells[0].job.evaluation
    if evaluation is None:
        return "none"
    return f"{', '.join(evaluation.scores)}; looked for: the optimum of {sweep.score}"


def _stored(job: JobSpec) -> list[ShardEntry]:
    found = SampleSet.find(job.output.uri)
    if found is None or found.header.num_samples != job.sampling.num_samples:
        return []
    planned = len(plan_shards(job))
    return [entry for entry in found.entries() if entry.shard < planned]


def _seconds_each(
    cells: Sequence[Cell], stored: Sequence[Sequence[ShardEntry]]
) -> list[float | None]:
    """Estimate the seconds an image of each cell takes on one head.

    Measured where shards of the cell are stored; else from other cells of its model, in
    proportion to the network evaluations of an image.
    """
    own = [_measured_each([e for e in entries if e.measured]) for entries in stored]
    per_evaluation: dict[str, list[float]] = defaultdict(list)
    for cell, seconds in zip(cells, own, strict=True):
        each = most_evaluations(cell.job.sampling)
        if seconds is not None and each:
            per_evaluation[cell.job.model.model_dump_json()].append(seconds / each)
    estimates: list[float | None] = []
    for cell, seconds in zip(cells, own, strict=True):
        known = per_evaluation.get(cell.job.model.model_dump_json())
        each = most_evaluations(cell.job.sampling)
        if seconds is None and known and each:
            seconds = each * sum(known) / len(known)
        estimates.append(seconds)
    return estimates


def _measured_each(entries: Sequence[ShardEntry]) -> float | None:
    """Give the seconds an image took its head, of the time in the model."""
    rows = sum(entry.num_rows for entry in entries)
    return sum(_model_s(entry.measured) for entry in entries) / rows if rows else None


def _model_s(measured: Measured | None) -> float:
    start, end = (0.0, 0.0) if measured is None else measured.intervals.get("model", (0.0, 0.0))
    return end - start
