"""Every check that can fail before a GPU is touched or a byte is written (design D5).

All problems are found in one pass and reported together. Nothing here imports Ray or
loads a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rdm_batch.engine.check_database import check_database, check_encoder, conditioning_problems
from rdm_batch.engine.check_evaluation import (
    check_extractors,
    check_layers,
    check_reference,
    known_part,
    score_problems,
)
from rdm_batch.engine.check_model import CheckedModel, check_model
from rdm_batch.engine.identity import ContentDigests, identity_digest, job_identity
from rdm_batch.engine.plan import ShardRange, plan_shards
from rdm_batch.errors import DatabaseError, InvalidJobError, RdmBatchError
from rdm_batch.inputs.encoders import check_texts
from rdm_batch.inputs.prompts import Prompts, read_prompts
from rdm_batch.inputs.references import OpenedReferences, open_references
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.specs.job import JobSpec
from rdm_batch.storage.manifest import SampleSetHeader
from rdm_batch.storage.object_store import check_writable
from rdm_batch.storage.sample_set import SampleSet


@dataclass(frozen=True)
class CheckedJob:
    """A job that may run: everything it names was found and fits together.

    Attributes:
        spec: The job, with absolute locations.
        shards: All units of work.
        manifest: Of the database.
        prompts: Texts to embed; None where none are.
        header: The header of the sample set, digest included.
        references: What the samples will be judged against. None where they are not.
    """

    spec: JobSpec
    shards: list[ShardRange]
    manifest: DatabaseManifest
    prompts: Prompts | None
    header: SampleSetHeader
    references: OpenedReferences | None


class Problems:
    """Collect expected failures instead of stopping at the first."""

    def __init__(self) -> None:
        self.found: list[RdmBatchError] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Note the expected failure of a block and go on after it."""
        try:
            yield
        except InvalidJobError as error:
            self.found.extend(error.problems)
        except RdmBatchError as error:
            self.found.append(error)


def preflight(spec: JobSpec, where: str, software: dict[str, str]) -> CheckedJob:
    """Check a job against everything it names.

    Args:
        spec: The job, with absolute locations.
        where: The job file, named in the message.
        software: Versions to record in the header of a new sample set.

    Raises:
        InvalidJobError: Something is missing or does not fit; all of it is listed.
    """
    problems = Problems()
    manifest: DatabaseManifest | None = None
    model: CheckedModel | None = None
    prompts: Prompts | None = None
    encoder: str | None = None
    references: OpenedReferences | None = None
    with problems.collect():
        prompts = read_prompts(spec.conditioning)
    with problems.collect():
        model = check_model(spec)
    with problems.collect():
        manifest = check_database(spec)
        problems.found.extend(conditioning_problems(spec, manifest))
    with problems.collect():
        encoder = check_encoder(spec, manifest)
        if prompts is not None and spec.database.encoder is not None:
            check_texts(spec.database.encoder.name, spec.database.encoder.weights, prompts.texts)
    with problems.collect():
        _check_context(spec, model, manifest)
    if spec.evaluation is not None:
        evaluation = known_part(spec.evaluation)
        with problems.collect():
            check_extractors(evaluation, spec.database)
        with problems.collect():
            check_layers(evaluation, spec.database)
        with problems.collect():
            references = open_references(evaluation)
            check_reference(evaluation, spec.database, references)
    problems.found.extend(score_problems(spec))
    with problems.collect():
        check_writable(spec.output.uri)
    if problems.found or model is None or manifest is None:
        raise InvalidJobError(where, tuple(problems.found))
    contents = ContentDigests(
        checkpoint=model.digest,
        database=manifest.digest,
        encoder=encoder,
        prompts=None if prompts is None else prompts.texts,
    )
    header = _header(spec, contents, model.image_size, software)
    with problems.collect():
        SampleSet.check(spec.output.uri, header)
    if problems.found:
        raise InvalidJobError(where, tuple(problems.found))
    return CheckedJob(spec, plan_shards(spec), manifest, prompts, header, references)


def _check_context(
    spec: JobSpec, model: CheckedModel | None, manifest: DatabaseManifest | None
) -> None:
    if model is None or manifest is None or model.context_dim in (None, manifest.dim):
        return
    raise DatabaseError(
        f"Database {spec.database.uri}",
        f"holds {manifest.dim}-dimensional embeddings of {manifest.encoder.name}, but the head "
        f"{spec.model.head} attends to {model.context_dim} dimensions",
        "a database made by the encoder the head was trained with",
        "rebuild the database with that encoder, or name another checkpoint",
    )


def _header(
    spec: JobSpec, contents: ContentDigests, image_size: int, software: dict[str, str]
) -> SampleSetHeader:
    identity = job_identity(spec, contents)
    digests = {
        "checkpoint": contents.checkpoint,
        "database": contents.database,
        "encoder": contents.encoder,
    }
    return SampleSetHeader(
        spec=identity,
        digest=identity_digest(identity),
        seed=spec.sampling.seed,
        num_samples=spec.sampling.num_samples,
        shard_size=spec.output.shard_size,
        image_size=image_size,
        content_digests={name: value for name, value in digests.items() if value is not None},
        software=software,
    )
