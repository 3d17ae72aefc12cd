"""Every check that can fail before a GPU is touched or a byte is written (design D5).

All problems are found in one pass and reported together. Nothing here imports Ray or
loads a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdm_batch.errors import InvalidJobError, RdmBatchError
from rdm_batch.evaluation.checks import (
    check_captions,
    check_extractors,
    check_layers,
    check_reference,
    known_part,
    score_problems,
)
from rdm_batch.files import canonical_digest
from rdm_batch.generation.engines import describe_engines
from rdm_batch.generation.fit import (
    context_problems,
    encoder_problems,
    head_problems,
    picture_problems,
)
from rdm_batch.generation.identity import ContentDigests, job_identity
from rdm_batch.generation.modes import mode_of
from rdm_batch.generation.modes.mode import Mode
from rdm_batch.generation.plan import ShardPlan, describe_plan, plan_shards
from rdm_batch.generation.submission import load_job
from rdm_batch.inputs.queries import GivenPictures
from rdm_batch.inputs.resolve import Openings, Resolution, Resolved, attempt, found_by, resolve
from rdm_batch.reports.provenance import software_versions
from rdm_batch.specs.job import JobSpec
from rdm_batch.storage.manifest import SampleSetHeader
from rdm_batch.storage.object_store import check_writable
from rdm_batch.storage.sample_set import SampleSet


@dataclass(frozen=True)
class CheckedJob(Resolved):
    """A job that may run: everything it names was found and opened, and fits together.

    Attributes:
        spec: The job, with absolute locations.
        shards: All units of work.
        header: The header of the sample set, digest included.
    """

    spec: JobSpec
    shards: ShardPlan
    header: SampleSetHeader


def preflight(
    spec: JobSpec, where: str, software: dict[str, str], openings: Openings | None = None
) -> CheckedJob:
    """Open everything a job names, and check the job against it.

    Args:
        spec: The job, with absolute locations.
        where: The job file, named in the message.
        software: Versions to record in the header of a new sample set.
        openings: What other jobs have opened. None: there are none.

    Raises:
        InvalidJobError: Something is missing or does not fit; all of it is listed.
    """
    mode = mode_of(spec.conditioning)
    resolution = resolve(spec, mode, openings)
    problems = tuple(_problems(spec, mode, resolution))
    if problems:
        raise InvalidJobError(where, problems)
    opened = resolution.resolved()
    header = attempt(lambda: _header(spec, opened, software))
    problems = header.problems
    if header.thing is not None:
        described = header.thing
        problems = attempt(lambda: SampleSet.check(spec.output.uri, described)).problems
    if problems or header.thing is None:
        raise InvalidJobError(where, problems)
    return CheckedJob(
        opened.model,
        opened.database,
        opened.proposal,
        opened.encoder,
        opened.prompts,
        opened.references,
        opened.queries,
        spec,
        plan_shards(spec),
        header.thing,
    )


def open_job(spec: JobSpec, where: str) -> Resolved:
    """Open what the samples of a job are made from, and check the job against it.

    Its output and its evaluation are left out: nothing will be stored or judged.

    Args:
        spec: The job, with absolute locations.
        where: Named in the message.

    Raises:
        InvalidJobError: Something is missing or does not fit; all of it is listed.
    """
    mode, spec = mode_of(spec.conditioning), spec.model_copy(update={"evaluation": None})
    resolution = resolve(spec, mode)
    problems = tuple(_sample_problems(spec, mode, resolution))
    if problems:
        raise InvalidJobError(where, problems)
    return resolution.resolved()


def dry_run(path: Path, overrides: Sequence[str]) -> tuple[str, bool]:
    """Describe what, if anything, still keeps a job from running, and its plan.

    Args:
        path: The job file.
        overrides: ``key.path=value`` strings.

    Returns:
        The description, what is missing first, and whether the job is ready to run.

    Raises:
        RdmBatchError: The job file itself is wrong. Missing or unfit files are no failure
            of a dry run; they are listed.
    """
    spec = load_job(path, overrides)
    plan = describe_plan(spec)
    try:
        job = preflight(spec, str(path), software_versions())
    except InvalidJobError as error:
        lines = [f"{path}: not ready to run, {error.found}"]
        lines += [f"  - {problem}" for problem in error.problems]
        return "\n".join([*lines, "the plan, once they are solved:", *plan]), False
    sample_set = SampleSet.find(spec.output.uri)
    missing = len(job.shards) if sample_set is None else len(sample_set.missing_shards())
    ready = f"{path}: ready to run, {missing:,} of {len(job.shards):,} shards are missing"
    plan += describe_engines(spec, job.database.manifest)
    return "\n".join([ready, *plan, f"digest     {job.header.digest}"]), True


def _problems(spec: JobSpec, mode: Mode, found: Resolution) -> Iterator[RdmBatchError]:
    yield from _sample_problems(spec, mode, found)
    yield from _evaluation_problems(spec, found)
    yield from found_by(lambda: score_problems(spec))
    yield from attempt(lambda: check_writable(spec.output.uri)).problems


def _sample_problems(spec: JobSpec, mode: Mode, found: Resolution) -> Iterator[RdmBatchError]:
    model, database, encoder = found.model.thing, found.database.thing, found.encoder.thing
    yield from found.prompts.problems
    yield from found.queries.problems
    yield from found.model.problems
    yield from found.weaker.problems
    if model is not None:
        yield from found_by(lambda: head_problems(spec, model, found.weaker.thing))
        yield from found_by(lambda: picture_problems(spec, model, found.queries.thing))
    yield from found.database.problems
    yield from found.proposal.problems
    if database is not None:
        yield from found_by(lambda: mode.problems(database, found.queries.thing))
    yield from found.encoder.problems
    if encoder is not None:
        yield from found_by(lambda: encoder_problems(encoder, database, found.prompts.thing))
    if model is not None and database is not None:
        yield from found_by(lambda: context_problems(spec, model, database))


def _evaluation_problems(spec: JobSpec, found: Resolution) -> Iterator[RdmBatchError]:
    if spec.evaluation is None:
        return
    evaluation, references = known_part(spec.evaluation), found.references.thing
    yield from attempt(lambda: check_extractors(evaluation, spec.database)).problems
    yield from attempt(lambda: check_layers(evaluation, spec.database)).problems
    given, edited = found.queries.thing, spec.conditioning.editing is not None
    if edited and isinstance(given, GivenPictures):
        captions = given.captions
        yield from attempt(lambda: check_captions(evaluation, spec.database, captions)).problems
    yield from found.references.problems
    if references is not None:
        yield from attempt(lambda: check_reference(evaluation, spec.database, references)).problems


def _header(spec: JobSpec, opened: Resolved, software: dict[str, str]) -> SampleSetHeader:
    contents = ContentDigests(
        checkpoint=opened.model.digest,
        database=opened.database.manifest.digest,
        encoder=None if opened.encoder is None else opened.encoder.digest,
        prompts=None if opened.prompts is None else opened.prompts.texts,
        columns=None if opened.prompts is None else opened.prompts.columns_digest,
        queries=None if opened.queries is None else opened.queries.digest,
        weaker=None if opened.model.weaker is None else opened.model.weaker.digest,
    )
    identity = job_identity(spec, contents)
    digests = {
        "checkpoint": contents.checkpoint,
        "database": contents.database,
        "encoder": contents.encoder,
        "weaker": contents.weaker,
    }
    return SampleSetHeader(
        spec=identity,
        digest=canonical_digest(identity, escape=False),
        seed=spec.sampling.seed,
        num_samples=spec.sampling.num_samples,
        shard_size=spec.output.shard_size,
        image_size=opened.model.image_size,
        content_digests={name: value for name, value in digests.items() if value is not None},
        software=software,
    )
