"""What the parts of a job ask of each other: the head of the database, the texts of the encoder."""

from __future__ import annotations

from collections.abc import Iterator

from rdm_batch.errors import DatabaseError, RdmBatchError, SpecError
from rdm_batch.heads.autoguidance import weaker_problems
from rdm_batch.heads.build import HEADS
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.encoders import OpenedEncoder
from rdm_batch.inputs.prompts import Prompts
from rdm_batch.inputs.resolve import attempt
from rdm_batch.inputs.weights import OpenedCheckpoint, OpenedWeights
from rdm_batch.specs.job import JobSpec


def head_problems(
    spec: JobSpec, model: OpenedCheckpoint, weaker: OpenedWeights | None = None
) -> Iterator[RdmBatchError]:
    """List what conditioning and sampling ask of a head and it cannot do.

    Args:
        spec: The job.
        model: Its head.
        weaker: What the head is to be guided away from, if anything.
    """
    if spec.model.query_first and not spec.conditioning.query_leads:
        yield SpecError(
            "conditioning",
            f"{spec.conditioning.mode!r} as it is set gives the head {spec.model.head} no query",
            "a context whose first entry is the query",
            "context query_and_neighbors (or the query alone, with k_nn 1), or mode unconditional",
        )
    if model.architecture is None:
        return
    yield from attempt(
        lambda: HEADS[spec.model.family].sampler_of(model.architecture, spec.sampling)
    ).problems
    if weaker is not None:
        yield from weaker_problems(model.architecture, weaker.architecture)
    if not model.architecture.parametric:
        return
    found = None
    if spec.conditioning.steers:
        found = f"conditioning.mode is {spec.conditioning.mode!r}"
    elif spec.sampling.guidance_scale != 1:
        found = f"sampling.guidance_scale is {spec.sampling.guidance_scale:g}"
    if found is not None:
        yield SpecError(
            "model",
            f"the head never sees neighbors (a fully parametric baseline), but {found}",
            "conditioning.mode unconditional and guidance_scale 1",
        )


def encoder_problems(
    encoder: OpenedEncoder, database: Database | None, prompts: Prompts | None
) -> Iterator[RdmBatchError]:
    """List why texts cannot be embedded, or not by the encoder the database was built with."""
    if database is not None:
        unfit = attempt(lambda: encoder.check_built(database, "database.encoder")).problems
        if unfit:
            yield from unfit
            return
    if prompts is not None:
        yield from attempt(lambda: encoder.check_texts(prompts.texts)).problems


def context_problems(
    spec: JobSpec, model: OpenedCheckpoint, database: Database
) -> Iterator[RdmBatchError]:
    """List why the head cannot attend to the embeddings of the database."""
    manifest = database.manifest
    if model.context_dim not in (None, manifest.dim):
        yield DatabaseError(
            f"Database {database.uri}",
            f"holds {manifest.dim}-dimensional embeddings of {manifest.encoder.name}, but the "
            f"head {spec.model.head} attends to {model.context_dim} dimensions",
            "a database made by the encoder the head was trained with",
            "rebuild the database with that encoder, or name another checkpoint",
        )
