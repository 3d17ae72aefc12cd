"""Generate in this process: images with what each was made from, and nothing stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from rdm_batch.cluster.local import LocalCluster, local_resources
from rdm_batch.cluster.pool import RetrieverNeeds, device_for
from rdm_batch.cluster.texts import ClusterEmbedder
from rdm_batch.generation.engines import search_effort
from rdm_batch.generation.head_worker import gpus_per_head
from rdm_batch.generation.modes import mode_of
from rdm_batch.generation.plan import largest_batch, plan_shards
from rdm_batch.generation.preflight import open_job
from rdm_batch.generation.renderer import ContextSource, RenderedShard, ShardClock, ShardRenderer
from rdm_batch.heads.devices import require_device
from rdm_batch.inputs.resolve import Resolved
from rdm_batch.specs.job import JobSpec


@dataclass(frozen=True)
class Batch:
    """Hold some samples of a job, with what each was made from.

    Attributes:
        sample_indices: Which samples these are.
        images: Their pictures.
        neighbor_ids: Database rows each was conditioned on, best first; no columns where it was
            conditioned on a text alone.
        neighbor_scores: Cosine similarity of each of these rows to the query.
        query_ids: Database row of each pseudo-query. None where queries are not rows.
        prompts: Text that was embedded for each. None without text.
        labels: Class of each. None without classes.
        columns: What else a sample set records of each, by the name of its column.
        sources: Picture that each is an edit of. None where they are made from nothing.
    """

    sample_indices: Int64[np.ndarray, " samples"]
    images: UInt8[np.ndarray, "samples height width 3"]
    neighbor_ids: Int64[np.ndarray, "samples found"]
    neighbor_scores: Float32[np.ndarray, "samples found"]
    query_ids: Int64[np.ndarray, " samples"] | None = None
    prompts: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    columns: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    sources: UInt8[np.ndarray, "samples height width 3"] | None = None


def generate(job: JobSpec) -> Iterator[Batch]:
    """Make the samples of a job in this process, shard by shard, without storing anything.

    The images are those that ``rdm_batch.run`` stores, byte for byte; ``output`` says how many a
    batch holds (``shard_size``) and is not written to. Everything the job names is checked
    before this returns; samples are made as they are asked for.

    Args:
        job: A job, as ``load_job`` gives it.

    Raises:
        InvalidJobError: Something is missing or does not fit; all of it is listed.
        RdmBatchError: A sample cannot be made.
    """
    return _batches(job, open_job(job, job.name))


def _batches(job: JobSpec, opened: Resolved) -> Iterator[Batch]:
    cluster = LocalCluster()
    device = require_device(device_for(gpus_per_head(job, local_resources())))
    searched = RetrieverNeeds(effort=search_effort(job, opened.database.manifest))
    with cluster.retriever(opened.database, searched) as retriever:
        embed = ClusterEmbedder(cluster)
        source = ContextSource(
            mode_of(job.conditioning).build_conditioner(opened, embed), retriever
        )
        renderer = ShardRenderer(
            opened.model.load_head(job.sampling, retriever.dim, device, job.conditioning.editing),
            job.sampling.seed,
            job.sampling.batch_size,
            job.model.cpu_threads,
            largest_batch(job),
        )
        for shard in plan_shards(job):
            yield _batch(renderer.render(shard, source, ShardClock()))


def _batch(rendered: RenderedShard) -> Batch:
    conditioning = rendered.inputs.conditioning
    return Batch(
        sample_indices=rendered.shard.indices,
        images=rendered.images,
        neighbor_ids=conditioning.neighbor_ids,
        neighbor_scores=conditioning.neighbor_scores,
        query_ids=conditioning.query_ids,
        prompts=rendered.inputs.prompts,
        labels=rendered.inputs.labels,
        columns={
            name: tuple(values.to_pylist()) for name, values in rendered.inputs.columns.items()
        },
        sources=rendered.sources,
    )
