"""From a shard of sample indices to its images, in one process and without Ray.

A worker runs several shards at once from several threads: while one is in the model, the
next looks up its neighbors and the previous one is encoded and written. The model itself
is entered by one thread only, always the same, so its arithmetic never changes. On a GPU that
thread launches a batch before it waits for the one before, also from one shard to the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8

from rdm_batch.generation.modes.mode import Conditioner, SampleInputs
from rdm_batch.generation.plan import ShardRange
from rdm_batch.heads.drawing import Drawing
from rdm_batch.heads.head import EditingHead, Head
from rdm_batch.heads.memory import telling_failures
from rdm_batch.retrieval.retriever import ObservedRetriever, Retriever, Search
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.sampling import SamplingSpec
from rdm_batch.storage.drawn_shard import DrawnShard, SourceImages
from rdm_batch.storage.manifest import WARM_UP, Interval, Measured, epoch_s


@dataclass
class ShardClock:
    """Record what a shard's time went into.

    Attributes:
        intervals: Activity (``neighbors``, ``model``, ``encode``, ``write``) to its interval.
        searches: Queries and seconds of every retrieval call, as seen by the caller.
        gpu_s: Seconds that batches took on a GPU, by its own clock. None without.
    """

    intervals: dict[str, Interval] = field(default_factory=dict)
    searches: list[tuple[int, float]] = field(default_factory=list)
    gpu_s: float | None = None

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
    sources: UInt8[np.ndarray, "samples height width 3"] | None = None


@dataclass(frozen=True)
class ContextSource:
    """What samples are conditioned on, and the database it is looked up in."""

    conditioner: Conditioner
    retriever: Retriever


def drawn_shard(
    rendered: RenderedShard, sampling: SamplingSpec, measured: Measured | None = None
) -> DrawnShard:
    """Put a shard's images beside what is recorded of them, to be encoded and stored.

    Args:
        rendered: The shard.
        sampling: How it was drawn.
        measured: Who made it and how fast.
    """
    conditioning = rendered.inputs.conditioning
    columns = {
        "sample_indices": rendered.shard.indices,
        "seed": sampling.seed,
        "query_ids": conditioning.query_ids,
        "neighbor_ids": conditioning.neighbor_ids,
        "neighbor_scores": conditioning.neighbor_scores,
        "labels": rendered.inputs.labels,
        "prompts": rendered.inputs.prompts,
        "sampler": sampling.sampler,
        "num_steps": sampling.columns.num_steps,
        "eta": sampling.columns.eta,
        "guidance_scale": sampling.guidance_scale,
        "others": rendered.inputs.columns,
    }
    sources, named = None, rendered.inputs.sources
    if rendered.sources is not None and named is not None:
        sources = SourceImages(rendered.sources, named.names, named.captions)
    return DrawnShard(rendered.shard.index, rendered.images, columns, measured, sources)


class _ModelRun:
    """Collect the images of a shard, batch by batch, from the thread of the model.

    Args:
        clock: Receives the time between the first batch and the last.
        on_drawn: Called after each batch with the number of its samples.
    """

    def __init__(self, clock: ShardClock, on_drawn: Callable[[int], None]) -> None:
        self.images: Future[UInt8[np.ndarray, "samples height width 3"]] = Future()
        self._clock = clock
        self._on_drawn = on_drawn
        self._parts: list[UInt8[np.ndarray, "batch height width 3"]] = []
        self._lacking = 0
        self._start = 0.0

    def begin(self, num_batches: int) -> None:
        """Start the clock."""
        self._lacking, self._start = num_batches, epoch_s()

    def drawn(self, images: UInt8[np.ndarray, "batch height width 3"], gpu_s: float | None) -> None:
        """Take a batch, in order."""
        self._parts.append(images)
        self._lacking -= 1
        if gpu_s is not None:
            self._clock.gpu_s = (self._clock.gpu_s or 0.0) + gpu_s
        self._on_drawn(len(images))
        if not self._lacking and not self.images.done():
            self._clock.intervals["model"] = (self._start, epoch_s())
            self.images.set_result(np.concatenate(self._parts))

    def fail(self, error: BaseException) -> None:
        """Give up the shard; the first failure counts."""
        if not self.images.done():
            self.images.set_exception(error)


@dataclass(frozen=True)
class _Started:
    """A batch that is launched."""

    drawing: Drawing
    count: int
    batch_size: int
    run: _ModelRun


def start_model_thread(cpu_threads: int) -> ThreadPoolExecutor:
    """Start the one thread that enters a model.

    Args:
        cpu_threads: Threads of its arithmetic on CPU.
    """
    return ThreadPoolExecutor(
        max_workers=1,
        thread_name_prefix="model",
        # PyTorch's thread count belongs to the thread that computes.
        initializer=torch.set_num_threads,
        initargs=(cpu_threads,),
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
        model_thread: Thread that enters the model, shared with the renderers of other heads of
            this process, which then take turns. None: one of its own.
    """

    def __init__(
        self,
        head: Head,
        seed: int,
        batch_size: int,
        cpu_threads: int = 1,
        rows: int | None = None,
        model_thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self._head = head
        self._seed = seed
        self._batch_size = batch_size
        self._rows = rows or batch_size
        self._started: _Started | None = None
        self._waiting = 0
        self._counting = threading.Lock()
        self._warming_up = threading.Lock()
        self._is_warm = not head.fixed_batches
        self._model_thread = model_thread or start_model_thread(cpu_threads)

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
            sources = None if inputs.sources is None else inputs.sources.decode()
        run = _ModelRun(clock, on_drawn)
        with self._counting:
            self._waiting += 1
        self._model_thread.submit(self._run_model, shard, inputs.conditioning.context, run, sources)
        return RenderedShard(shard, run.images.result(), inputs, sources)

    def _run_model(
        self,
        shard: ShardRange,
        context: Float32[np.ndarray, "samples tokens dim"],
        run: _ModelRun,
        sources: UInt8[np.ndarray, "samples height width 3"] | None,
    ) -> None:
        with self._counting:
            self._waiting -= 1
        try:
            batches = shard.batches(self._batch_size)
            run.begin(len(batches))
            for indices in batches:
                if run.images.done():  # it has failed
                    break
                rows = indices - shard.start
                given = None if sources is None else sources[rows]
                self._start(context[rows], indices, run, given)
        except BaseException as error:
            run.fail(error)
        # Whoever comes next launches a batch first; where nobody does, the device is waited for.
        if not self._waiting:
            self._collect()

    def _start(
        self,
        context: Float32[np.ndarray, "batch tokens dim"],
        indices: Int64[np.ndarray, " batch"],
        run: _ModelRun,
        sources: UInt8[np.ndarray, "batch height width 3"] | None,
    ) -> None:
        """Launch a batch, filled up to the job's one shape where the head must have it."""
        count = len(indices)
        if self._head.fixed_batches and count < self._rows:
            filled = np.minimum(np.arange(self._rows), count - 1)
            context, indices = context[filled], indices[filled]
            sources = None if sources is None else sources[filled]
        noise = SampleNoise(self._seed, indices)
        with telling_failures(len(indices)):
            if sources is None:
                drawing = self._head.start(context, noise)
            else:
                assert isinstance(self._head, EditingHead)  # checked before the job starts
                drawing = self._head.start_edit(context, sources, noise)
        self._collect()
        self._started = _Started(drawing, count, len(indices), run)
        if not drawing.in_background:
            self._collect()

    def _collect(self) -> None:
        """Give the batch that was launched last to its shard, once it is drawn."""
        started, self._started = self._started, None
        if started is None:
            return
        try:
            with telling_failures(started.batch_size):
                images = started.drawing.collect()[: started.count]
            started.run.drawn(images, started.drawing.gpu_s())
        except BaseException as error:
            started.run.fail(error)

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
