"""The pool's twin in this process: the same flows without Ray, and the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from rdm_batch.cluster.pool import (
    ClusterResources,
    Pool,
    RetrieverNeeds,
    WorkerNeeds,
    as_finished,
)
from rdm_batch.inputs.databases import Database
from rdm_batch.metrics.tasks import HERE, TaskRunner
from rdm_batch.reports.provenance import describe_machine
from rdm_batch.reports.run_report import LostRetriever, RayNode
from rdm_batch.retrieval.composite import CompositeRetriever

Worker = TypeVar("Worker")
Item = TypeVar("Item")
Result = TypeVar("Result")


def local_resources() -> ClusterResources:
    """Say what this machine offers: to this process, or to a Ray started on it."""
    machine = describe_machine()
    return ClusterResources(1, float(machine.num_cores), float(len(machine.gpus)))


class LocalCluster:
    """Work in this process, as ``Cluster`` promises."""

    @property
    def resources(self) -> ClusterResources:
        """Say what this machine offers."""
        return local_resources()

    def nodes(self) -> tuple[RayNode, ...]:
        """Describe no machines: what ran in this process is described with it."""
        return ()

    @contextmanager
    def workers(
        self, make: Callable[[int], Worker], count: int, needs: WorkerNeeds
    ) -> Iterator[Pool[Worker]]:
        """Make one worker, whatever the count; see ``Cluster.workers``."""
        yield _LocalPool(make(0), needs.in_flight)

    @contextmanager
    def retriever(self, database: Database, needs: RetrieverNeeds) -> Iterator[CompositeRetriever]:
        """Open every shard in this process; see ``Cluster.retriever``."""
        yield database.retriever(effort=needs.effort)

    def lost_retrievers(self, retriever: CompositeRetriever) -> tuple[LostRetriever, ...]:
        """Say that none was: one that is lost is this process."""
        return ()

    def tasks(self) -> TaskRunner:
        """Give what calls plain functions one after the other."""
        return HERE


class _LocalPool(Generic[Worker]):
    """Call one worker from as many threads as it takes items at once."""

    def __init__(self, worker: Worker, in_flight: int) -> None:
        self._worker = worker
        self._in_flight = in_flight

    def map(
        self,
        method: Callable[..., Result],
        items: Iterable[Item],
        *,
        where: Callable[[Item], str],
        shared: Sequence[Any] = (),
        on_wait: Callable[[], None] | None = None,
    ) -> Iterator[tuple[Item, Result]]:
        """Call a method for every item; see ``Pool.map``."""
        if self._in_flight == 1:
            # In the caller's own thread: nothing runs beside it, and Ctrl-C ends it at once.
            for item in items:
                yield item, method(self._worker, item, *shared)
                if on_wait is not None:
                    on_wait()
            return
        threads = ThreadPoolExecutor(self._in_flight, thread_name_prefix="worker")
        finish = True

        def start(_: int, item: Item) -> Future[Result]:
            return threads.submit(method, self._worker, item, *shared)

        try:
            yield from as_finished(
                range(self._in_flight),
                items,
                start,
                _wait,
                lambda call, _: call.result(),
                on_wait,
            )
        except KeyboardInterrupt:
            finish = False
            raise
        finally:
            threads.shutdown(wait=finish)

    def glance(self, method: Callable[[Worker], Result]) -> list[Result]:
        """Ask the worker; see ``Pool.glance``."""
        return [method(self._worker)]


def _wait(calls: Collection[Future[Result]], seconds: float) -> Collection[Future[Result]]:
    return wait(calls, seconds, FIRST_COMPLETED).done
