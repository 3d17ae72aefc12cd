"""Make the missing shards of a set: how many heads a cluster has room for, and what each does."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from rdm_batch.cluster.pool import Cluster, ClusterResources, WorkerNeeds, device_for
from rdm_batch.errors import ClusterError
from rdm_batch.evaluation.inline import InlineExtractors
from rdm_batch.generation.plan import ShardRange, largest_batch
from rdm_batch.generation.renderer import ContextSource, ShardClock, ShardRenderer, drawn_shard
from rdm_batch.heads.arithmetic import check_precision
from rdm_batch.heads.devices import device_class, device_software, require_device
from rdm_batch.heads.head import Head
from rdm_batch.heads.memory import telling_failures
from rdm_batch.heads.work import measure_peak
from rdm_batch.inputs.weights import OpenedCheckpoint
from rdm_batch.specs.families import WeightedModel
from rdm_batch.specs.job import JobSpec
from rdm_batch.storage.device_class import check_begun_on, claim_device
from rdm_batch.storage.drawn_shard import DrawnShard
from rdm_batch.storage.encoders import Encoders
from rdm_batch.storage.manifest import Measured, SampleSetHeader, ShardEntry
from rdm_batch.storage.sample_set import SampleSet

SHARDS_IN_FLIGHT = 3
"""Shards a head works on at once: one looks up neighbors, one is in the model, one is written; with
several encoders as many more as can be written at once."""
_ENCODERS_ON_GPU = 2
"""Processes a head with a GPU has to encode and store: at 4.5 ms an image of 256 x 256 enough for
400 a second."""


@dataclass(frozen=True)
class HeadResources:
    """Heads to start and what each reserves."""

    num_heads: int
    num_cpus: float
    num_gpus: float


def gpus_per_head(spec: JobSpec, cluster: ClusterResources) -> float:
    """Say how many GPUs, or what fraction of one, each head of a job reserves."""
    if spec.cluster.gpus_per_head is not None:
        return spec.cluster.gpus_per_head
    return 1.0 if cluster.num_gpus else 0.0


def encoders_per_head(spec: JobSpec, device: str) -> int:
    """Say how many processes encode and store what a head draws; 0 is the head's own."""
    if spec.cluster.encoders_per_head is not None:
        return spec.cluster.encoders_per_head
    return 0 if device == "cpu" else _ENCODERS_ON_GPU


def plan_resources(spec: JobSpec, cluster: ClusterResources, num_shards: int) -> HeadResources:
    """Divide a cluster between heads.

    Args:
        spec: The job.
        cluster: What there is.
        num_shards: Shards to make; more heads than shards would idle.

    Raises:
        ClusterError: The cluster has too few GPUs or CPUs for the heads asked for.
        SpecError: The heads compute on CPUs, which lack the arithmetic asked for.
    """
    wanted = spec.cluster
    num_gpus = gpus_per_head(spec, cluster)
    if isinstance(spec.model, WeightedModel):
        check_precision(spec.model.precision, device_for(num_gpus))
    num_cpus = wanted.cpus_per_head
    if num_cpus is None:
        num_cpus = 1.0 if num_gpus else float(spec.model.cpu_threads)
    by_gpus = cluster.num_gpus / num_gpus if num_gpus else math.inf
    by_cpus = cluster.num_cpus / num_cpus if num_cpus else math.inf
    room = min(by_gpus, by_cpus, num_shards)
    num_heads = wanted.heads or max(1, math.floor(room))
    for name, each, has in (
        ("GPU", num_gpus, cluster.num_gpus),
        ("CPU", num_cpus, cluster.num_cpus),
    ):
        if num_heads * each > has:
            raise ClusterError(
                "cluster",
                f"has {has:g} {name}s, but {num_heads} heads with {each:g} each were asked for",
                f"at most {has:g} {name}s in all",
                f"lower cluster.heads or cluster.{name.lower()}s_per_head, or use a larger cluster",
            )
    return HeadResources(min(num_heads, num_shards), num_cpus, num_gpus)


class HeadWorker:
    """Hold one head and commit the shards made with it.

    Args:
        spec: The job.
        model: Its head.
        header: Of the sample set it writes to.
        context_dim: Width of the database's embeddings.
        device: What it reserved, ``cpu`` or ``cuda``.
        number: Number of this head.
        model_thread: As in ``ShardRenderer``.
        load: Loads the head. None: it is loaded as ``model`` says.
        peak: Floating-point operations a second of the GPU, where they were measured before.

    Raises:
        RdmBatchError: The head cannot be loaded, or what it reserved cannot be used.
    """

    def __init__(
        self,
        spec: JobSpec,
        model: OpenedCheckpoint,
        header: SampleSetHeader,
        context_dim: int,
        device: str,
        number: int,
        model_thread: ThreadPoolExecutor | None = None,
        load: Callable[[], Head] | None = None,
        peak: float | None = None,
    ) -> None:
        require_device(device)
        self._name = f"head-{number}"
        self._device = f"{device} on {socket.gethostname()}"
        self._spec = spec
        self._source: ContextSource | None = None
        self._class, self._software = device_class(device), device_software(device)
        self.peak = peak
        if peak is None and device != "cpu" and isinstance(spec.model, WeightedModel):
            # Before weights are there, which leave less room.
            with telling_failures(1):
                self.peak = measure_peak(spec.model.precision, device)
        self._drawn: dict[int, int] = {}
        self._set = SampleSet.create_or_resume(spec.output.uri, header)
        if device != "cpu" and not spec.cluster.mixed_devices:
            claim_device(self._set, self._class)
        self._encoders: Encoders | None = None
        if encoders := encoders_per_head(spec, device):
            # They start while the weights are loaded.
            self._encoders = Encoders(spec.output.uri, header, encoders)
        self._inline: InlineExtractors | None = None
        if spec.evaluation is not None and spec.evaluation.inline:
            self._inline = InlineExtractors(self._set, spec.evaluation, spec.database, device)
        self._renderer = ShardRenderer(
            load()
            if load is not None
            else model.load_head(spec.sampling, context_dim, device, spec.conditioning.editing),
            spec.sampling.seed,
            spec.sampling.batch_size,
            spec.model.cpu_threads,
            largest_batch(spec),
            model_thread,
        )

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
        self._drawn[shard.index] = 0

        def drawn(count: int) -> None:
            self._drawn[shard.index] += count

        rendered = self._renderer.render(shard, self._source, clock, drawn)
        measured = Measured(
            run=run_id,
            head=self._name,
            device=self._device,
            device_class=self._class,
            device_software=self._software,
            intervals=clock.intervals,
            searches=tuple(clock.searches),
            gpu_s=clock.gpu_s,
            peak_flops_per_s=None if clock.gpu_s is None else self.peak,
        )
        made = drawn_shard(rendered, self._spec.sampling, measured)
        entry = self._commit(made)
        if self._inline is not None:
            # Whatever comes of this, the samples are stored.
            with telling_failures(len(rendered.images)):
                features = self._inline.extract(shard.indices, rendered.images)
            self._inline.store(entry, features)
        self._drawn.pop(shard.index, None)
        return entry

    def _commit(self, made: DrawnShard) -> ShardEntry:
        if self._encoders is None:
            return made.commit(self._set)
        return self._encoders.commit(made)

    def drawn(self) -> dict[int, int]:
        """Count the samples drawn of each shard that is not committed yet."""
        return self._drawn.copy()


def make_shards(
    cluster: Cluster,
    resources: HeadResources,
    spec: JobSpec,
    model: OpenedCheckpoint,
    header: SampleSetHeader,
    shards: Iterable[ShardRange],
    source: ContextSource,
    run_id: str,
    on_commit: Callable[[ShardEntry], None],
    on_drawn: Callable[[dict[int, int]], None],
) -> None:
    """Make shards, each on whichever head is free first.

    Args:
        cluster: Where heads live; they end with the call, and what they reserved is free.
        resources: How many heads, and what each reserves.
        spec: The job.
        model: Its head.
        header: Of the sample set they write to.
        shards: What is missing.
        source: What samples are conditioned on.
        run_id: Recorded in the entries.
        on_commit: Called with each entry as soon as it is stored.
        on_drawn: Called about once a second for each head that has loaded, with the samples it
            has drawn of each shard that it has not committed; for progress lines.

    Raises:
        RdmBatchError: A shard failed for a reason that repeating cannot cure.
        ClusterError: A head was lost more often than it may be brought back.
    """
    encoders = encoders_per_head(spec, device_for(resources.num_gpus))
    in_flight = SHARDS_IN_FLIGHT + max(0, encoders - 1)
    needs = WorkerNeeds(resources.num_cpus, resources.num_gpus, in_flight)
    if not spec.cluster.mixed_devices:
        check_begun_on(SampleSet.create_or_resume(spec.output.uri, header), needs.device)
    head = partial(HeadWorker, spec, model, header, source.retriever.dim, needs.device)
    with cluster.workers(head, resources.num_heads, needs) as heads:

        def look() -> None:
            for drawn in heads.glance(HeadWorker.drawn):
                on_drawn(drawn)

        committed = heads.map(
            HeadWorker.make,
            shards,
            where=lambda shard: f"shard {shard.index}",
            shared=(source, run_id),
            on_wait=look,
        )
        for _, entry in committed:
            on_commit(entry)
