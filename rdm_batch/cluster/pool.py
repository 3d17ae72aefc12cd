"""The one way work is spread: a cluster, its pools of workers, and what they promise.

A flow asks a :class:`Cluster` for workers and maps items over them. It never knows whether they
are Ray actors on many machines (``ray_cluster``) or one object in this process (``local``), and
what it makes does not depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from rdm_batch.metrics.tasks import TaskRunner
from rdm_batch.reports.run_report import RayNode

Worker = TypeVar("Worker")
PoolWorker = TypeVar("PoolWorker", covariant=True)
Item = TypeVar("Item")
Result = TypeVar("Result")

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


@dataclass(frozen=True)
class WorkerNeeds:
    """Say what each worker of a pool takes.

    Args:
        num_cpus: CPUs reserved.
        num_gpus: GPUs reserved, or a fraction of one.
        in_flight: Items a worker has at once; above 1 its methods are called from as many threads.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    in_flight: int = 1


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


@runtime_checkable
class Cluster(Protocol):
    """Somewhere to work.

    Attributes:
        resources: What there is in total.
    """

    resources: ClusterResources

    def nodes(self) -> tuple[RayNode, ...]:
        """Describe the machines of a Ray cluster; none where work stays in this process."""
        ...

    def workers(
        self, make: Callable[[int], Worker], count: int, needs: WorkerNeeds
    ) -> AbstractContextManager[Pool[Worker]]:
        """Start workers for the duration of a block; they load in the background.

        Args:
            make: Makes a worker from its number; called where the worker lives. A module-level
                function or class, or a ``partial`` of one.
            count: How many, at least 1. In this process there is always one.
            needs: What each takes.
        """
        ...

    def tasks(self) -> TaskRunner:
        """Give what runs plain functions over shared arrays."""
        ...
