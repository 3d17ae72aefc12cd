"""What the parts of a job ask of each other: the head of the database, the texts of the encoder."""

from __future__ import annotations

from collections.abc import Iterator

from rdm_batch.errors import DatabaseError, ImageError, RdmBatchError, SpecError
from rdm_batch.heads.autoguidance import weaker_problems
from rdm_batch.heads.build import HEADS
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.encoders import OpenedEncoder
from rdm_batch.inputs.prompts import Prompts
from rdm_batch.inputs.queries import GivenPictures, GivenQueries
from rdm_batch.inputs.resolve import attempt
from rdm_batch.inputs.weights import OpenedCheckpoint, OpenedWeights
from rdm_batch.specs.conditioning import EditConditioning
from rdm_batch.specs.edits import TrainedEditSpec
from rdm_batch.specs.families import Architecture, RdmArchitecture
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
    if spec.conditioning.editing is not None and spec.model.process != "diffusion":
        yield SpecError(
            "conditioning.edit",
            f"head {spec.model.head} has no latents that noise is added to and taken from",
            "a head of diffusion over latents: rdm, or knn_diffusion with backbone continuous",
            "name such a head, or make pictures from texts with conditioning.mode text",
        )
        return
    if model.architecture is None:
        return
    yield from _edit_problems(spec, model.architecture)
    yield from attempt(lambda: _sampler(spec, model.architecture)).problems
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


def _edit_problems(spec: JobSpec, architecture: Architecture) -> Iterator[RdmBatchError]:
    """List a method of editing that the head was not trained for, and the other way around."""
    asked = isinstance(spec.conditioning.editing, TrainedEditSpec)
    trained = isinstance(architecture, RdmArchitecture) and architecture.edits
    if asked and not trained:
        yield SpecError(
            "conditioning.edit",
            "method trained shows the head the picture, which this one was never shown",
            "a head that `rdm-batch train knn_edit` made",
            "name such a checkpoint, or use method sdedit, which any diffusion head can",
        )
    if trained and not asked:
        yield SpecError(
            "conditioning",
            "the head edits given pictures, and is given none",
            "mode edit with edit.method trained",
            "set it so, or name a head that draws from nothing",
        )


def _sampler(spec: JobSpec, architecture: Architecture | None) -> object:
    """Build what draws the samples, which is cheap and refuses what it cannot do."""
    head, edit = HEADS[spec.model.family], spec.conditioning.editing
    if edit is not None:
        assert issubclass(head, RdmHead)  # the heads whose process is diffusion
        assert isinstance(architecture, RdmArchitecture)
        return head.sampler_of(architecture, spec.sampling, edit)
    return head.sampler_of(architecture, spec.sampling)


def picture_problems(
    spec: JobSpec, model: OpenedCheckpoint, queries: GivenQueries | None
) -> Iterator[RdmBatchError]:
    """List pictures that are to be edited and are not of the head's size.

    Args:
        spec: The job.
        model: Its head.
        queries: What the job gives to be conditioned on.
    """
    conditioning, size = spec.conditioning, model.image_size
    if not isinstance(conditioning, EditConditioning) or not isinstance(queries, GivenPictures):
        return
    others = {kind: count for kind, count in queries.sizes.items() if kind != (size, size)}
    if conditioning.other_sizes != "refuse" or not others:
        return
    (height, width), count = max(others.items(), key=lambda item: item[1])
    more = f" and {len(others) - 1:,} other sizes" if len(others) > 1 else ""
    yield ImageError(
        f"conditioning.images {conditioning.images}",
        f"{sum(others.values()):,} of {len(queries):,} pictures have another size than the head's "
        f"({count:,} of {width} x {height}{more})",
        f"{size} x {size}",
        "set conditioning.other_sizes to crop or stretch, or resize them",
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
