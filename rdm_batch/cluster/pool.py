"""The one way work is spread: a cluster, its pools of workers, and what they promise.

A flow asks a :class:`Cluster` for workers and maps items over them. It never knows whether they
are Ray actors on many machines (``ray_cluster``) or one object in this process (``local``), and
what it makes does not depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from rdm_batch.inputs.databases import Database
from rdm_batch.metrics.tasks import TaskRunner
from rdm_batch.reports.run_report import LostRetriever, RayNode
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.effort import SearchEffort

Worker = TypeVar("Worker")
PoolWorker = TypeVar("PoolWorker", covariant=True)
Item = TypeVar("Item")
Result = TypeVar("Result")
Place = TypeVar("Place")
Call = TypeVar("Call")
Thing = TypeVar("Thing")

POLL_S = 1.0
"""Longest time between two calls of ``on_wait``, seconds."""


@dataclass(frozen=True)
class ClusterResources:
    """What a cluster has in total.

    Args:
        num_nodes: Nodes alive.
        num_cpus: CPUs over all nodes.
        num_gpus: GPUs over all nodes.
    """

    num_nodes: int
    num_cpus: float
    num_gpus: float


def device_for(num_gpus: float) -> str:
    """Name what a worker that reserves so many GPUs computes on, as PyTorch does.

    Not what it can see: Ray leaves every GPU of a machine visible to workers that reserve none.
    """
    return "cuda" if num_gpus else "cpu"


@dataclass(frozen=True)
class WorkerNeeds:
    """Say what each worker of a pool takes.

    Args:
        num_cpus: CPUs reserved.
        num_gpus: GPUs reserved, or a fraction of one.
        in_flight: Items a worker has at once; above 1 its methods are called from as many threads.
        ahead: Items that wait at a worker already, so that it never waits for the next one.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    in_flight: int = 1
    ahead: int = 0

    @property
    def device(self) -> str:
        """Name what such a worker computes on: ``cuda`` where it reserves GPUs, else ``cpu``."""
        return device_for(self.num_gpus)


@dataclass(frozen=True)
class RetrieverNeeds:
    """Say how a database is spread and how hard it is searched.

    Args:
        num_actors: Actors it is spread over. None: one for each of its shards; more than there
            are shards are not used.
        effort: How hard its shards are searched.
        num_cpus: CPUs reserved per actor.
    """

    num_actors: int | None = None
    effort: SearchEffort = field(default_factory=SearchEffort)
    num_cpus: float = 0.0


@dataclass(frozen=True)
class Opened(Generic[Thing]):
    """Hold what is open in this process, and is opened again wherever it is sent.

    Args:
        thing: What is open.
        again: Opens it there.
    """

    thing: Thing
    again: Callable[[], Thing]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _open_again, (self.again,)


def _open_again(again: Callable[[], Thing]) -> Opened[Thing]:
    return Opened(again(), again)


@runtime_checkable
class Pool(Protocol[PoolWorker]):
    """Some equal workers that take items as they become free."""

    def map(
        self,
        method: Callable[..., Result],
        items: Iterable[Item],
        *,
        where: Callable[[Item], str],
        shared: Sequence[Any] = (),
        on_wait: Callable[[], None] | None = None,
    ) -> Iterator[tuple[Item, Result]]:
        """Call ``method(worker, item, *shared)`` for every item, on whichever worker is free.

        A worker that is lost is brought back a bounded number of times and its items are done
        again: methods must be safe to repeat.

        Args:
            method: A method of the workers' class, unbound.
            items: What differs between calls.
            where: Names an item in the message when its worker is lost for good.
            shared: What is equal for all calls; sent to a machine once, not changed by anyone.
            on_wait: Called at least every ``POLL_S`` seconds while results are waited for.

        Yields:
            Items with their results, as they finish.

        Raises:
            RdmBatchError: The one a call raised, as it was raised there.
            ClusterError: A worker was lost more often than it may be brought back.
        """
        ...

    def glance(self, method: Callable[[PoolWorker], Result]) -> list[Result]:
        """Ask every worker something small beside its items, for progress; never wait.

        Called now and then, such as ``on_wait`` is. A worker that is still loading, or lost, gives
        no answer.

        Args:
            method: A method of the workers' class, unbound, safe beside its other methods.

        Returns:
            The answers that have arrived since the last call, in no order.
        """
        ...


@runtime_checkable
class Cluster(Protocol):
    """Somewhere to work."""

    @property
    def resources(self) -> ClusterResources:
        """Say what there is in total, now."""
        ...

    def nodes(self) -> tuple[RayNode, ...]:
        """Describe the machines of a Ray cluster; none where work stays in this process."""
        ...

    def workers(
        self, make: Callable[[int], Worker], count: int, needs: WorkerNeeds
    ) -> AbstractContextManager[Pool[Worker]]:
        """Start workers for the duration of a block; they load in the background.

        Args:
            make: Makes a worker from its number; called where the worker lives. A class, whose
                name the worker's process carries, or a ``partial`` of one.
            count: How many, at least 1. In this process there is always one.
            needs: What each takes.
        """
        ...

    def retriever(
        self, database: Database, needs: RetrieverNeeds
    ) -> AbstractContextManager[CompositeRetriever]:
        """Open a database for searching for the duration of a block.

        The retriever can be sent to workers, and used by several threads at once.

        Args:
            database: The database.
            needs: How it is spread and searched.
        """
        ...

    def lost_retrievers(self, retriever: CompositeRetriever) -> tuple[LostRetriever, ...]:
        """Say which retrievers behind one that this cluster opened were lost, and how often.

        Args:
            retriever: Of ``retriever``, in its block.
        """
        ...

    def tasks(self) -> TaskRunner:
        """Give what runs plain functions over shared arrays."""
        ...


def as_finished(
    places: Iterable[Place],
    items: Iterable[Item],
    start: Callable[[Place, Item], Call],
    wait: Callable[[Collection[Call], float], Collection[Call]],
    result: Callable[[Call, Item], Result],
    on_wait: Callable[[], None] | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Start a call in every place, and the next one wherever one has finished.

    The one loop behind every way to work: threads of this process, actors, tasks.

    Args:
        places: Where calls can run, each named as often as it has room, in the order in which
            they get their first item.
        items: What is called; taken only when there is a place for it.
        start: Starts the call of an item in a place.
        wait: Gives the calls that have finished, after so many seconds at the latest.
        result: Gives the result of a finished call, or raises its failure.
        on_wait: As ``Pool.map``.

    Yields:
        Items with their results, as they finish.
    """
    waiting = iter(items)
    running: dict[Call, tuple[Place, Item]] = {}

    def feed(place: Place) -> None:
        for item in islice(waiting, 1):
            running[start(place, item)] = place, item

    for place in places:
        feed(place)
    while running:
        finished = wait(list(running), POLL_S)
        if on_wait is not None:
            on_wait()
        for call in finished:
            place, item = running.pop(call)
            found = result(call, item)
            # Before whoever asked looks at the result: nobody waits for that.
            feed(place)
            yield item, found
