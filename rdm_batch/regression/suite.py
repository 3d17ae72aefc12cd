"""A suite from its file to jobs that may run."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from rdm_batch.errors import InvalidJobError, RdmBatchError, SpecError
from rdm_batch.files import canonical_digest
from rdm_batch.generation.preflight import CheckedJob, preflight
from rdm_batch.generation.submission import load_job
from rdm_batch.inputs.locations import absolute_locations
from rdm_batch.inputs.resolve import Openings
from rdm_batch.reports.provenance import software_versions
from rdm_batch.reports.table import leaves
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.messages import problems_of
from rdm_batch.specs.suite import SuiteJobSpec, SuiteSpec
from rdm_batch.specs.yaml_text import read_yaml


@dataclass(frozen=True)
class SuiteJob:
    """A job of a suite.

    Args:
        entry: What the suite says of it.
        job: The job itself, with absolute locations.
    """

    entry: SuiteJobSpec
    job: JobSpec

    @property
    def name(self) -> str:
        """Return what the suite calls it."""
        return self.entry.name

    def at(self, output: str, seed: int | None = None) -> JobSpec:
        """Give the job with another output location, and if wanted another seed."""
        changes = {"output": self.job.output.model_copy(update={"uri": output})}
        if seed is None:
            return self.job.model_copy(update=changes)
        sampling = self.job.sampling.model_copy(update={"seed": seed})
        return self.job.model_copy(update=changes | {"sampling": sampling})


@dataclass(frozen=True)
class Suite:
    """A suite whose jobs are known.

    Args:
        path: Its file.
        spec: The suite, with an absolute output.
        jobs: Its jobs.
    """

    path: Path
    spec: SuiteSpec
    jobs: tuple[SuiteJob, ...]

    @property
    def baseline(self) -> Path:
        """Return where the accepted baseline is."""
        return self.path.parent / self.spec.baseline

    @cached_property
    def digest(self) -> str:
        """Return the digest of the suite, its gates and its jobs, wherever their output goes."""
        jobs = [job.at("-").model_dump(mode="json") for job in self.jobs]
        spec = self.spec.model_dump(mode="json", exclude={"output", "baseline"})
        return canonical_digest({"suite": spec, "jobs": jobs}, escape=False)

    def output_of(self, run_id: str, name: str) -> str:
        """Name the output location of a job in a run."""
        return f"{self.spec.output.rstrip('/')}/{run_id}/{name}"


def load_suite(path: Path) -> Suite:
    """Read a suite and its jobs.

    Raises:
        SpecError: The file cannot be read.
        InvalidJobError: The suite, or a job of it, is wrong; all mistakes are listed.
    """
    where = str(path)
    document = read_yaml(path)
    if not isinstance(document, dict) or document.get("kind") != "suite":
        raise SpecError(where, "is no suite", "a mapping with `kind: suite`, see docs/nightly.md")
    try:
        spec = SuiteSpec.model_validate(document)
    except ValidationError as error:
        raise InvalidJobError(where, problems_of(error, SuiteSpec, document, "suite")) from None
    here = Path.cwd()
    spec = absolute_locations(spec, here, here)
    jobs, problems = [], []
    for entry in spec.jobs:
        try:
            job = SuiteJob(entry, load_job(path.parent / entry.job, entry.overrides))
        except RdmBatchError as error:
            problems += list(_named(entry.name, error))
            continue
        jobs.append(job)
        problems += list(_gate_problems(job))
    if problems:
        raise InvalidJobError(where, tuple(problems))
    return Suite(path, spec, tuple(jobs))


def check_jobs(suite: Suite, run_id: str) -> tuple[CheckedJob, ...]:
    """Open everything the jobs of a suite name, and check every job, before anything is started.

    Args:
        suite: The suite.
        run_id: Whose output locations the jobs get.

    Raises:
        InvalidJobError: Something is missing or does not fit; all of it is listed.
    """
    openings, software = Openings(), software_versions()
    checked: list[CheckedJob] = []
    problems: list[RdmBatchError] = []
    for job in suite.jobs:
        spec = job.at(suite.output_of(run_id, job.name))
        try:
            checked.append(preflight(spec, str(suite.path), software, openings))
        except RdmBatchError as error:
            problems += list(_named(job.name, error))
    if problems:
        raise InvalidJobError(str(suite.path), tuple(problems))
    return tuple(checked)


def _gate_problems(job: SuiteJob) -> Iterator[RdmBatchError]:
    evaluation = job.job.evaluation
    made = () if evaluation is None else evaluation.scores
    for score in job.entry.gates.scores:
        if score not in made:
            yield SpecError(
                f"job {job.name}: gates",
                f"{score} is judged, and the job does not compute it",
                f"one of {', '.join(made)}" if made else "a job with an evaluation",
                f"add {score} to evaluation.scores, or take it out of the gates",
            )
    known = {name for name, _ in leaves(job.job.model_dump(mode="json"))}
    for change in job.entry.gates.closeness:
        for field in change.fields:
            if field not in known:
                yield SpecError(
                    f"job {job.name}: gates.closeness.{change.name}",
                    f"{field} is no field of the job",
                    "the dotted name of one",
                    suggestion(field, known),
                )


def suggestion(name: str, known: Collection[str]) -> str:
    """Offer the nearest of some names; nothing where none is near."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else ""


def _named(name: str, error: RdmBatchError) -> Iterator[RdmBatchError]:
    problems = error.problems if isinstance(error, InvalidJobError) else (error,)
    for problem in problems:
        where = f"job {name}: {problem.where}"
        yield type(problem)(where, problem.found, problem.needed, problem.action)
