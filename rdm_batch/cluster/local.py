"""The pool's twin in this process: the same flows without Ray, and the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any, Generic, TypeVar

from rdm_batch.cluster.pool import POLL_S, ClusterResources, Pool, WorkerNeeds
from rdm_batch.metrics.tasks import HERE, TaskRunner
from rdm_batch.reports.provenance import describe_machine
from rdm_batch.reports.run_report import RayNode

Worker = TypeVar("Worker")
Item = TypeVar("Item")
Result = TypeVar("Result")


def local_resources() -> ClusterResources:
    """Say what this machine offers: to this process, or to a Ray started on it."""
    machine = describe_machine()
    return ClusterResources(1, float(machine.num_cores), float(len(machine.gpus)))


class LocalCluster:
    """Work in this process, as ``Cluster`` promises."""

    def __init__(self) -> None:
        self.resources = local_resources()

    def nodes(self) -> tuple[RayNode, ...]:
        """Describe no machines: what ran in this process is described with it."""
        return ()

    @contextmanager
    def workers(
        self, make: Callable[[int], Worker], count: int, needs: WorkerNeeds
    ) -> Iterator[Pool[Worker]]:
        """Make one worker, whatever the count; see ``Cluster.workers``."""
        yield _LocalPool(make(0), needs.in_flight)

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
        waiting = iter(items)
        if self._in_flight == 1:
            for item in waiting:
                yield item, method(self._worker, item, *shared)
                if on_wait is not None:
                    on_wait()
            return
        with ThreadPoolExecutor(self._in_flight, thread_name_prefix="worker") as threads:
            running: dict[Future[Result], Item] = {}

            def feed(count: int) -> None:
                for item in islice(waiting, count):
                    running[threads.submit(method, self._worker, item, *shared)] = item

            feed(self._in_flight)
            while running:
                done, _ = wait(running, POLL_S, FIRST_COMPLETED)
                if on_wait is not None:
                    on_wait()
                for future in done:
                    item = running.pop(future)
                    result = future.result()
                    feed(1)
                    yield item, result
