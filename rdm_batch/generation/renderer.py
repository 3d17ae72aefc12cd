"""From a shard of sample indices to a committed shard, in one process and without Ray.

A worker runs several shards at once from several threads: while one is in the model, the
next looks up its neighbors and the previous one is encoded and written. The model itself
is entered by one thread only, always the same, so its arithmetic never changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, UInt8

from rdm_batch.generation.modes.mode import Conditioner, SampleInputs
from rdm_batch.generation.plan import ShardRange
from rdm_batch.heads.head import Head
from rdm_batch.retrieval.retriever import ObservedRetriever, Retriever, Search
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.sampling import SamplingSpec
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.table import make_table

Interval = tuple[float, float]
"""Start and end, seconds since the epoch: comparable between processes of one machine."""


@dataclass
class ShardClock:
    """Record what a shard's time went into.

    Attributes:
        intervals: Activity (``neighbors``, ``model``, ``encode``, ``write``) to its interval.
        searches: Queries and seconds of every retrieval call, as seen by the caller.
    """

    intervals: dict[str, Interval] = field(default_factory=dict)
    searches: list[tuple[int, float]] = field(default_factory=list)

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Record the time a block takes under the name of an activity."""
        start = time.time()
        try:
            yield
        finally:
            self.intervals[activity] = (start, time.time())

    def searched(self, search: Search) -> None:
        """Record a retrieval call."""
        self.searches.append((len(search.queries), search.seconds))


@dataclass(frozen=True)
class RenderedShard:
    """A shard's images with everything that is recorded beside them."""

    shard: ShardRange
    images: UInt8[np.ndarray, "samples height width 3"]
    inputs: SampleInputs


@dataclass(frozen=True)
class ContextSource:
    """What samples are conditioned on, and the database it is looked up in."""

    conditioner: Conditioner
    retriever: Retriever


def shard_table(rendered: RenderedShard, sampling: SamplingSpec) -> pa.Table:
    """Encode a shard's images and put them beside their provenance.

    Args:
        rendered: The shard.
        sampling: How it was drawn.
    """
    conditioning = rendered.inputs.conditioning
    return make_table(
        sample_indices=rendered.shard.indices,
        images=[encode_png(image) for image in rendered.images],
        seed=sampling.seed,
        query_ids=conditioning.query_ids,
        neighbor_ids=conditioning.neighbor_ids,
        neighbor_scores=conditioning.neighbor_scores,
        labels=rendered.inputs.labels,
        prompts=rendered.inputs.prompts,
        sampler=sampling.sampler,
        num_steps=sampling.columns.num_steps,
        eta=sampling.columns.eta,
        guidance_scale=sampling.guidance_scale,
    )


class ShardRenderer:
    """Turn shard ranges into images.

    Args:
        head: The decoding head.
        seed: Seed of the job.
        batch_size: Samples the head computes at once.
        cpu_threads: Threads of the model's arithmetic on CPU.
    """

    def __init__(
        self,
        head: Head,
        seed: int,
        batch_size: int,
        cpu_threads: int = 1,
    ) -> None:
        self._head = head
        self._seed = seed
        self._batch_size = batch_size
        self._model_thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="model",
            # PyTorch's thread count belongs to the thread that computes.
            initializer=torch.set_num_threads,
            initargs=(cpu_threads,),
        )

    def render(
        self,
        shard: ShardRange,
        source: ContextSource,
        clock: ShardClock,
        on_drawn: Callable[[int], None] = lambda count: None,
    ) -> RenderedShard:
        """Look up the neighbors of a shard's samples and draw its images.

        Safe to call from several threads; only the model part runs one at a time.

        Args:
            shard: The samples to make.
            source: What they are conditioned on.
            clock: Receives the time each activity took.
            on_drawn: Called after each batch with the number of its samples.
        """
        with clock.measure("neighbors"):
            noise = SampleNoise(self._seed, shard.indices)
            inputs = source.conditioner(noise, ObservedRetriever(source.retriever, clock.searched))
        images = self._model_thread.submit(
            self._run_model, shard, inputs.conditioning.context, clock, on_drawn
        ).result()
        return RenderedShard(shard, images, inputs)

    def _run_model(
        self,
        shard: ShardRange,
        context: Float32[np.ndarray, "samples tokens dim"],
        clock: ShardClock,
        on_drawn: Callable[[int], None],
    ) -> UInt8[np.ndarray, "samples height width 3"]:
        parts = []
        with clock.measure("model"):
            for indices in shard.batches(self._batch_size):
                noise = SampleNoise(self._seed, indices)
                parts.append(self._head.generate(context[indices - shard.start], noise))
                on_drawn(len(indices))
        return np.concatenate(parts)
