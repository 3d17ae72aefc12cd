"""Head actors: thin shells around a head, a renderer and the sample set they write to."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

import ray

from rdm_batch.engine.build import head_device
from rdm_batch.engine.plan import ShardRange
from rdm_batch.engine.worker import ContextSource, ShardClock, ShardRenderer, shard_table
from rdm_batch.inputs.weights import OpenedCheckpoint
from rdm_batch.pipelines.resources import HeadResources
from rdm_batch.pipelines.retrievers import RESTARTS
from rdm_batch.specs.job import JobSpec
from rdm_batch.storage.manifest import Measured, SampleSetHeader, ShardEntry
from rdm_batch.storage.sample_set import SampleSet

SHARDS_IN_FLIGHT = 3
"""Shards a head works on at once: one looks up neighbors, one is in the model, one is written."""


class HeadActor:
    """Hold one head and make shards with it; ``start_heads`` makes an actor of it."""

    def __init__(
        self,
        name: str,
        spec: JobSpec,
        model: OpenedCheckpoint,
        header: SampleSetHeader,
        context_dim: int,
    ) -> None:
        device = head_device()
        self._name = name
        self._device = f"{device} on {socket.gethostname()}"
        self._spec = spec
        self._source: ContextSource | None = None
        self._set = SampleSet.create_or_resume(spec.output.uri, header)
        self._renderer = ShardRenderer(
            model.load_head(spec.sampling, context_dim, device),
            spec.sampling.seed,
            spec.sampling.batch_size,
            spec.model.cpu_threads,
        )

    def process_id(self) -> int:
        """Give the process id, so that a test can end this actor and no other."""
        return os.getpid()

    def make(self, shard: ShardRange, source: ContextSource, run_id: str) -> ShardEntry:
        """Make one shard and commit it.

        Args:
            shard: The samples to make.
            source: What they are conditioned on; the first one is kept, with what it has
                looked up, for a job has only one.
            run_id: Names the run in the shard's entry.
        """
        clock = ShardClock()
        if self._source is None:
            self._source = source
        rendered = self._renderer.render(shard, self._source, clock)
        with clock.measure("encode"):
            table = shard_table(rendered, self._spec.sampling)
        measured = Measured(
            run=run_id,
            head=self._name,
            device=self._device,
            intervals=clock.intervals,
            searches=tuple(clock.searches),
        )
        return self._set.commit_shard(shard.index, table, measured)


def start_heads(
    resources: HeadResources,
    spec: JobSpec,
    model: OpenedCheckpoint,
    header: SampleSetHeader,
    context_dim: int,
) -> list[Any]:
    """Start head actors; they load in the background.

    Args:
        resources: How many, and what each reserves.
        spec: The job.
        model: Its head.
        header: Of the sample set they write to.
        context_dim: Width of the database's embeddings.
    """
    actor: Any = ray.remote(
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
        max_concurrency=SHARDS_IN_FLIGHT,
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        scheduling_strategy="SPREAD",
    )(HeadActor)
    return [
        actor.remote(f"head-{number}", spec, model, header, context_dim)
        for number in range(resources.num_heads)
    ]


def stop(actors: Sequence[Any]) -> None:
    """End actors for good, so that what they reserved is free for the next stage."""
    for actor in actors:
        ray.kill(actor)
