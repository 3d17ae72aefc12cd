"""From a shard of sample indices to a committed shard, in one process and without Ray.

A worker runs several shards at once from several threads: while one is in the model, the
next looks up its neighbors and the previous one is encoded and written. The model itself
is entered by one thread only, always the same, so its arithmetic never changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Int64, UInt8

from rdm_batch.generation.modes.mode import Conditioner, SampleInputs
from rdm_batch.generation.plan import ShardRange
from rdm_batch.heads.head import Head
from rdm_batch.heads.memory import telling_failures
from rdm_batch.retrieval.retriever import ObservedRetriever, Retriever, Search
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.sampling import SamplingSpec
from rdm_batch.storage.manifest import WARM_UP, Interval, epoch_s
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.table import make_table


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
        start = epoch_s()
        try:
            yield
        finally:
            self.intervals[activity] = (start, epoch_s())

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
        others=rendered.inputs.columns,
    )


class ShardRenderer:
    """Turn shard ranges into images.

    Args:
        head: The decoding head.
        seed: Seed of the job.
        batch_size: Samples the head computes at once.
        cpu_threads: Threads of the model's arithmetic on CPU.
        rows: Most samples any batch of the job has, to which short ones are filled up where the
            head must see one shape. None: ``batch_size``.
    """

    def __init__(
        self,
        head: Head,
        seed: int,
        batch_size: int,
        cpu_threads: int = 1,
        rows: int | None = None,
    ) -> None:
        self._head = head
        self._seed = seed
        self._batch_size = batch_size
        self._rows = rows or batch_size
        self._warming_up = threading.Lock()
        self._is_warm = not head.fixed_batches
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
            clock: Receives the time each activity took; before the first shard of a head that
                compiles itself also ``warm-up``.
            on_drawn: Called after each batch with the number of its samples.
        """
        self._warm_up(shard, source, clock)
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
                parts.append(self._generate(context[indices - shard.start], indices))
                on_drawn(len(indices))
        return np.concatenate(parts)

    def _warm_up(self, shard: ShardRange, source: ContextSource, clock: ShardClock) -> None:
        """Let the head compile itself, once; other shards wait before their clock starts."""
        with self._warming_up:
            if self._is_warm:
                return
            with clock.measure(WARM_UP), telling_failures(self._rows):
                noise = SampleNoise(self._seed, shard.indices[:1])
                one = source.conditioner(noise, source.retriever).conditioning.context
                context = np.repeat(one, self._rows, axis=0)
                self._model_thread.submit(self._head.warm_up, context).result()
            self._is_warm = True

    def _generate(
        self,
        context: Float32[np.ndarray, "batch tokens dim"],
        indices: Int64[np.ndarray, " batch"],
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """Draw a batch; fill it up to the job's one shape where the head must have it."""
        count = len(indices)
        if self._head.fixed_batches and count < self._rows:
            filled = np.minimum(np.arange(self._rows), count - 1)
            context, indices = context[filled], indices[filled]
        with telling_failures(len(indices)):
            return self._head.generate(context, SampleNoise(self._seed, indices))[:count]
