"""From a job file with a ``sweep`` to its cells: jobs as they would be written by hand."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rdm_batch.errors import InvalidJobError, RdmBatchError, SpecError
from rdm_batch.generation.submission import located
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.load import load_document, parse_job
from rdm_batch.specs.messages import problems_of
from rdm_batch.specs.sweep import CELL_NAME, MAX_CELLS, SweepSpec
from rdm_batch.sweeps.axes import BASE, axis_problems, name_cells, with_values

CELLS_FOLDER = "cells"
_MAX_JOB_NAME = 100
_NAMED_AT_ONCE = 3


@dataclass(frozen=True)
class Cell:
    """One job of a sweep.

    Args:
        name: Readable, and unique in the sweep.
        values: Fields it sets, by their dotted names; none for the job as it is written.
        job: The job, with locations as they were written.
    """

    name: str
    values: Mapping[str, Any]
    job: JobSpec


@dataclass(frozen=True)
class Sweep:
    """Hold a sweep as its file describes it.

    Args:
        where: The file, for messages.
        name: Of the job it was written as.
        uri: Below which its cells and its report lie.
        spec: What is varied and asked.
        cells: Its jobs, with absolute locations; at least one.
        base: Position of the cell that differences are taken to.
    """

    where: str
    name: str
    uri: str
    spec: SweepSpec
    cells: tuple[Cell, ...]
    base: int

    @property
    def axes(self) -> tuple[str, ...]:
        """Fields that vary, in the order of the file."""
        return tuple(dict.fromkeys(axis for cell in self.cells for axis in cell.values))

    @property
    def score(self) -> str | None:
        """The score whose optimum is looked for; None where nothing is judged."""
        evaluation = self.cells[0].job.evaluation
        if evaluation is None:
            return None
        return self.spec.score or evaluation.scores[0]


def load_sweep(path: Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Sweep:
    """Read a job file with a ``sweep``, and make the job of every cell.

    Args:
        path: The file, or what it would hold.
        overrides: ``key.path=value`` strings for the job that the cells vary.

    Raises:
        SpecError: The file cannot be read, or an override is not understood.
        InvalidJobError: The sweep, or a cell, is wrong; all mistakes are listed, with the cells.
    """
    where = str(path) if isinstance(path, Path) else "the sweep"
    document = load_document(path, overrides)
    part = document.pop("sweep", None)
    spec = _parse_part(part, where)
    problems = list(_part_problems(spec))
    if problems:
        raise InvalidJobError(where, tuple(problems))
    points, given = _points(spec)
    names = name_cells(points, given)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        found = f"{len(twice)} cells are there twice: {_listed(twice)}"
        raise InvalidJobError(where, (SpecError("sweep", found, "each once"),))
    uri = _output_of(document)
    documents = (
        _cell_document(document, name, point, uri)
        for name, point in zip(names, points, strict=True)
    )
    jobs = per_cell(where, names, [partial(parse_job, written, where) for written in documents])
    cells = tuple(
        Cell(name, point, located(job))
        for name, point, job in zip(names, points, jobs, strict=True)
    )
    root = cells[0].job.output.uri.removesuffix(f"/{CELLS_FOLDER}/{cells[0].name}")
    base = _base(document, cells, uri)
    if spec.lines is not None:
        # Every line goes through the base point, whether or not its values name it again.
        made = _sampled(cells[0].job)
        cells = (cells[0], *(cell for cell in cells[1:] if _sampled(cell.job) != made))
    found_alike = list(_alike(cells))
    if found_alike:
        raise InvalidJobError(where, tuple(found_alike))
    _check_asked(where, spec, cells[0].job)
    return Sweep(where, str(document["name"]), root, spec, cells, base)


def per_cell(where: str, names: Sequence[str], steps: Sequence[Callable[[], Any]]) -> list[Any]:
    """Take a step for every cell, and tell of all mistakes at once, each with its cells.

    Args:
        where: The file, for the message.
        names: Of the cells.
        steps: One per cell.

    Raises:
        InvalidJobError: One or more failed.
    """
    results: list[Any] = []
    failed: dict[str, tuple[RdmBatchError, list[str]]] = {}
    for name, step in zip(names, steps, strict=True):
        try:
            results.append(step())
        except InvalidJobError as error:
            for problem in error.problems:
                failed.setdefault(str(problem), (problem, []))[1].append(name)
        except RdmBatchError as error:
            failed.setdefault(str(error), (error, []))[1].append(name)
    if failed:
        told = (_told(problem, cells, len(names)) for problem, cells in failed.values())
        raise InvalidJobError(where, tuple(told))
    return results


def _told(problem: RdmBatchError, cells: Sequence[str], count: int) -> RdmBatchError:
    if len(cells) == count and count > 1:
        return problem  # of the job itself: whatever is varied, it stays
    named = f"{'cell' if len(cells) == 1 else 'cells'} {_listed(cells)}"
    return type(problem)(f"{named}: {problem.where}", problem.found, problem.needed, problem.action)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_AT_ONCE
    return ", ".join(names[:_NAMED_AT_ONCE]) + (f" and {more:,} more" if more > 0 else "")


def _parse_part(part: object, where: str) -> SweepSpec:
    try:
        return SweepSpec.model_validate(part)
    except ValidationError as error:
        problems = problems_of(error, SweepSpec, part, "sweep")
        named = (
            problem
            if problem.where == "sweep"
            else SpecError(f"sweep.{problem.where}", problem.found, problem.needed, problem.action)
            for problem in problems
        )
        raise InvalidJobError(where, tuple(named)) from None


def _part_problems(spec: SweepSpec) -> Iterable[RdmBatchError]:
    for form, axes in (("grid", spec.grid), ("lines", spec.lines)):
        if axes is None:
            continue
        yield from axis_problems(f"sweep.{form}", list(axes))
        for axis, values in axes.items():
            same = [v for place, v in enumerate(values) if v in values[:place]]
            if same:
                yield SpecError(f"sweep.{form}", f"{axis} has {same[0]!r} twice", "each once")
    for place, point in enumerate(spec.points or ()):
        where = f"sweep.list.{place}"
        yield from axis_problems(where, [axis for axis in point if axis != "name"])
        name = point.get("name")
        if name is not None and not (isinstance(name, str) and re.match(CELL_NAME, name)):
            yield SpecError(
                where, f"name is {name!r}", "letters, digits, . _ and - (at most 80 characters)"
            )
    count = 1
    for values in (spec.grid or {}).values():
        count *= len(values)
    count = max(count, sum(map(len, (spec.lines or {}).values())), len(spec.points or ()))
    if count > MAX_CELLS:
        yield SpecError("sweep", f"has {count:,} cells", f"at most {MAX_CELLS:,}", "split it")


def _points(spec: SweepSpec) -> tuple[list[dict[str, Any]], list[str | None]]:
    """List what each cell sets, and the name it was given."""
    if spec.grid is not None:
        combined = itertools.product(*spec.grid.values())
        points = [dict(zip(spec.grid, values, strict=True)) for values in combined]
        return points, [None] * len(points)
    if spec.lines is not None:
        points = [{}, *({axis: v} for axis, values in spec.lines.items() for v in values)]
        return points, [None] * len(points)
    listed = [dict(point) for point in spec.points or ()]
    return listed, [point.pop("name", None) for point in listed]


def _output_of(document: Mapping[str, Any]) -> str:
    output = document.get("output")
    uri = output.get("uri") if isinstance(output, Mapping) else None
    return uri.strip().rstrip("/") if isinstance(uri, str) else ""


def _cell_document(
    document: Mapping[str, Any], name: str, point: Mapping[str, Any], uri: str
) -> dict[str, Any]:
    job = with_values(copy.deepcopy(dict(document)), point)
    if isinstance(job.get("name"), str):
        job["name"] = f"{job['name'][: _MAX_JOB_NAME - len(name) - 1]}.{name}"
    if uri:
        job = with_values(job, {"output.uri": f"{uri}/{CELLS_FOLDER}/{name}"})
    return job


def _base(document: Mapping[str, Any], cells: Sequence[Cell], uri: str) -> int:
    """Find the cell that is the job as it is written; the first where none is."""
    try:
        written = located(parse_job(_cell_document(document, BASE, {}, uri), ""))
    except InvalidJobError:
        return 0  # of a grid or a list the job itself need not be one
    made = _sampled(written)
    return next((place for place, cell in enumerate(cells) if _sampled(cell.job) == made), 0)


def _alike(cells: Sequence[Cell]) -> Iterable[RdmBatchError]:
    """List cells whose jobs say the same of their samples."""
    first: dict[str, str] = {}
    for cell in cells:
        other = first.setdefault(_sampled(cell.job), cell.name)
        if other != cell.name:
            yield SpecError(
                "sweep",
                f"cells {other} and {cell.name} are the same samples",
                "cells that differ in what defines the samples",
                "leave one out",
            )


def _sampled(job: JobSpec) -> str:
    apart = {"name": True, "output": {"uri"}, "cluster": True, "database": {"retriever_shards"}}
    return job.model_dump_json(exclude=apart)  # type: ignore[arg-type]


def _check_asked(where: str, spec: SweepSpec, job: JobSpec) -> None:
    scores = () if job.evaluation is None else job.evaluation.scores
    if spec.score is not None and spec.score not in scores:
        raise InvalidJobError(
            where,
            (
                SpecError(
                    "sweep.score",
                    f"is {spec.score}, which evaluation.scores does not ask for",
                    f"one of {', '.join(scores)}" if scores else "an evaluation",
                ),
            ),
        )
    if spec.stop_when is not None and not scores:
        problem = SpecError("sweep.stop_when", "nothing is judged", "an evaluation")
        raise InvalidJobError(where, (problem,))
