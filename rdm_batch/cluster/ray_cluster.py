"""The pool on Ray: plain actors that pull items, tasks for scores. Nobody else calls Ray."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np

# A Ray started here serves this process alone: it binds to loopback (the node address by
# itself would be rewritten) and sends no usage data. Read when ray is imported, therefore
# set before; whoever sets them otherwise is obeyed.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray
import ray.util.client
from ray import cloudpickle

from rdm_batch.cluster.pool import (
    POLL_S,
    ClusterResources,
    Pool,
    RetrieverNeeds,
    WorkerNeeds,
    as_finished,
)
from rdm_batch.cluster.ray_retrievers import losses, refuse_deadly_shards
from rdm_batch.cluster.ray_start import LOCAL, started_or_joined
from rdm_batch.cluster.ray_watch import check_ray, ray_is_lost, watched
from rdm_batch.cluster.retrievers import RemotePart, RetrieverWorker, row_ranges
from rdm_batch.errors import ClusterError, DeviceLostError, expected
from rdm_batch.inputs.databases import Database
from rdm_batch.metrics.tasks import HERE, TaskRunner
from rdm_batch.reports.run_report import LostRetriever, RayNode
from rdm_batch.retrieval.composite import CompositeRetriever

Worker = TypeVar("Worker")
Item = TypeVar("Item")
Result = TypeVar("Result")

RESTARTS = 5
"""How often Ray brings a lost actor back, and repeats a lost call, before the flow fails.

Everything a worker does can be done twice without harm (design D2), so repeating is safe;
the bound keeps a call that kills every actor it meets from going on forever.
"""

_RETRIEVER_CALLS_AT_ONCE = 4
_INLINE_BYTES = 64 << 10
"""Ray keeps arguments beside a call up to 100 KiB."""
_GLANCES = "glances"
_LEAST_SHARED_BYTES = 32 << 20
"""Sending smaller arrays to tasks takes longer than computing with them here."""


@contextlib.contextmanager
def joined(address: str) -> Iterator[RayCluster]:
    """Start or join Ray for the duration of a block; see ``connect.connected``."""
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(watched(address, address == LOCAL))
        with watch.starting():
            stack.enter_context(started_or_joined(address))
        stack.enter_context(watch.running())
        try:
            yield RayCluster()
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            # Whatever else can be lost, such as what was stored: no mistake of this program.
            raise _lost(f"Ray at {address}", error) from None


class RayCluster:
    """Work on the Ray this process is connected to, as ``Cluster`` promises."""

    @property
    def resources(self) -> ClusterResources:
        """Say what all nodes that are alive offer."""
        total = ray.cluster_resources()
        alive = sum(node["Alive"] for node in ray.nodes())
        return ClusterResources(alive, total.get("CPU", 0.0), total.get("GPU", 0.0))

    def nodes(self) -> tuple[RayNode, ...]:
        """Describe the nodes that are alive."""
        return tuple(
            RayNode(
                name=node["NodeManagerHostname"],
                num_cpus=node["Resources"].get("CPU", 0),
                num_gpus=node["Resources"].get("GPU", 0),
                memory_bytes=int(node["Resources"].get("memory", 0)),
            )
            for node in ray.nodes()
            if node["Alive"]
        )

    @contextmanager
    def workers(
        self, make: Callable[[int], Worker], count: int, needs: WorkerNeeds
    ) -> Iterator[Pool[Worker]]:
        """Start actors for the duration of a block; see ``Cluster.workers``."""
        with _actors([partial(make, number) for number in range(count)], needs) as actors:
            yield _RayPool(actors, needs.in_flight + needs.ahead)

    @contextmanager
    def retriever(self, database: Database, needs: RetrieverNeeds) -> Iterator[CompositeRetriever]:
        """Spread a database's shards over actors; see ``Cluster.retriever``."""
        ranges = row_ranges(database.manifest, needs.num_actors)
        makes = [partial(RetrieverWorker, database, part.shards, needs.effort) for part in ranges]
        each = WorkerNeeds(num_cpus=needs.num_cpus, in_flight=_RETRIEVER_CALLS_AT_ONCE)
        with _actors(makes, each) as actors:
            dim, removed = database.manifest.dim, database.removed()
            parts = [
                RemotePart(actor, part.first_row, part.rows, part.left(removed), dim, part.name)
                for actor, part in zip(actors, ranges, strict=True)
            ]
            try:
                yield CompositeRetriever(parts, _ask_at_once)
            except ClusterError:
                if not ray_is_lost():
                    opens = partial(_opens, database, needs)
                    refuse_deadly_shards(database.uri, parts, ranges, opens)
                raise

    def lost_retrievers(self, retriever: CompositeRetriever) -> tuple[LostRetriever, ...]:
        """Ask Ray how often each retriever was brought back; see ``Cluster.lost_retrievers``."""
        return losses([part for part in retriever.parts if isinstance(part, RemotePart)])

    def tasks(self) -> TaskRunner:
        """Give what runs plain functions as Ray tasks."""
        return _RayTasks(2 * max(1, int(self.resources.num_cpus)))


class _Shell:
    """Hold a worker in an actor's process; actor classes derive from it under its name."""

    def __init__(self, pickled: bytes) -> None:
        # A failure here would end the actor, and leave its text alone: the calls tell of it.
        self._failure: Exception | None = None
        try:
            self._worker: Any = cloudpickle.loads(pickled)()
        except DeviceLostError as error:
            _give_up(error)
        except Exception as error:
            self._failure = error

    def call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the worker."""
        if self._failure is not None:
            raise self._failure
        try:
            return method(self._worker, *arguments)
        except DeviceLostError as error:
            _give_up(error)


def _give_up(error: DeviceLostError) -> NoReturn:
    """End the process of an actor whose GPU computes nothing more; Ray makes another one."""
    print(error, file=sys.stderr, flush=True)
    os._exit(1)


def _opens(database: Database, needs: RetrieverNeeds, shard: int) -> bool:
    """Open one shard in a process of its own; tell whether that process lived."""
    make = partial(RetrieverWorker, database, (shard,), needs.effort)
    with _actors([make], WorkerNeeds(num_cpus=needs.num_cpus), lives=0) as (actor,):
        try:
            ray.get(actor.call.remote(RetrieverWorker.answer, "resident_bytes"))
        except ray.exceptions.RayTaskError:
            return True
        except ray.exceptions.RayActorError:
            return False
    return True


@contextmanager
def _actors(
    makes: Sequence[partial[Any]], needs: WorkerNeeds, lives: int | None = None
) -> Iterator[list[Any]]:
    """Start an actor around each worker that is made; end them all with the block."""
    restarts = RESTARTS if lives is None else lives
    options = {
        "max_restarts": restarts,
        "max_task_retries": restarts,
        "max_concurrency": needs.in_flight,
        "num_cpus": needs.num_cpus,
        "num_gpus": needs.num_gpus,
        "scheduling_strategy": "SPREAD",
        "concurrency_groups": {_GLANCES: 1},
    }
    remote: Any = ray.remote(**options)(type(_worker_name(makes[0]), (_Shell,), {}))
    # Ray cannot restart an actor whose own arguments have left the object store: as long as this
    # block lasts, they do not. Small ones travel with the call and are never there.
    pickled = [cloudpickle.dumps(make) for make in makes]
    kept = [made if len(made) <= _INLINE_BYTES else ray.put(made) for made in pickled]
    actors = [remote.remote(made) for made in kept]
    try:
        yield actors
    finally:
        # Where Ray is gone they are gone too, and nobody is there to be told.
        for actor in [] if ray_is_lost() else actors:
            ray.kill(actor)


def _worker_name(make: Any) -> str:
    while isinstance(make, partial):
        make = make.func
    return str(make.__name__)


class _RayPool(Generic[Worker]):
    """Call the workers in actors, each with a few items at once."""

    def __init__(self, actors: Sequence[Any], items_each: int) -> None:
        self._actors = actors
        self._items_each = items_each
        self._glances: dict[Any, Any] = {}
        self._glanced_s = -POLL_S

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
        # With the calls, not with the actors: stored once, and read without copying.
        stored = [ray.put(value) for value in shared]
        return as_finished(
            # Round by round, so that few items are spread over all, not piled on the first.
            [*self._actors] * self._items_each,
            items,
            lambda actor, item: actor.call.remote(method, item, *stored),
            _wait,
            lambda call, item: _result(call, where(item)),
            on_wait,
        )

    def glance(self, method: Callable[[Worker], Result]) -> list[Result]:
        """Ask workers that have answered the last question; see ``Pool.glance``."""
        answers: list[Result] = []
        if ray.util.client.ray.is_connected():
            return answers  # A client (ray://) cannot call an actor beside its other calls.
        asked = list(self._glances)
        for call in ray.wait(asked, num_returns=len(asked), timeout=0)[0] if asked else []:
            del self._glances[call]
            # Whatever is wrong with a worker, its items tell of it.
            with contextlib.suppress(Exception):
                answers.append(ray.get(call))
        now = time.monotonic()
        if now - self._glanced_s >= POLL_S:
            self._glanced_s = now
            waiting = set(self._glances.values())
            for actor in self._actors:
                if actor not in waiting:
                    # In a thread that nothing else takes.
                    beside = {"concurrency_group": _GLANCES, "max_task_retries": 0}
                    self._glances[actor.call.options(**beside).remote(method)] = actor
        return answers


class _RayTasks:
    """Run calls as Ray tasks, the arrays they share sent to each node once."""

    def __init__(self, num_tasks: int) -> None:
        self.num_tasks = num_tasks

    def __call__(
        self,
        function: Callable[..., Result],
        shared: Sequence[np.ndarray],
        items: Sequence[Any],
    ) -> Iterable[Result]:
        """Return ``function(*shared, item)`` for each item, in the order they finish."""
        if sum(array.nbytes for array in shared) < _LEAST_SHARED_BYTES:
            yield from HERE(function, shared, items)
            return
        stored = [ray.put(array) for array in shared]
        task: Any = ray.remote(num_cpus=1, max_retries=RESTARTS)(_call)
        finished = as_finished(
            range(self.num_tasks),
            items,
            lambda _, item: task.remote(function, item, *stored),
            _wait,
            lambda call, _: _result(call, "scores"),
        )
        for _, result in finished:
            yield result


def _call(function: Callable[..., Result], item: Any, *shared: np.ndarray) -> Result:
    return function(*shared, item)


def _ask_at_once(method: str, calls: Sequence[tuple[Any, tuple[Any, ...]]]) -> list[Any]:
    """Ask retriever actors, all of them before the first has answered."""
    asked = [
        part.actor.call.remote(RetrieverWorker.answer, method, *arguments)
        for part, arguments in calls
    ]
    return [_result(call, part.name) for call, (part, _) in zip(asked, calls, strict=True)]


def _wait(calls: Collection[Any], seconds: float) -> Collection[Any]:
    finished: list[Any] = ray.wait(list(calls), num_returns=1, timeout=seconds)[0]
    check_ray()
    return finished


def _result(call: Any, where: str) -> Any:
    """Wait for a remote call and raise its failure as the error it was over there.

    Args:
        call: What a remote call returned.
        where: What was being done, for the message.

    Raises:
        RdmBatchError: The call raised one.
        ClusterError: The worker is gone for good, or all of Ray is.
    """
    try:
        while not _wait([call], POLL_S):
            pass
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        cause: Any = error
        while isinstance(cause, ray.exceptions.RayTaskError):
            cause = cause.cause
        failure = expected(cause, where)
        if failure is not None:
            raise failure from None
        if isinstance(cause, ray.exceptions.RayError):
            # The call itself waited for a worker, and that one was lost.
            raise _lost(where, cause) from None
        raise
    except ray.exceptions.RayError as error:
        raise _lost(where, error) from None


def _lost(where: str, error: Exception) -> ClusterError:
    check_ray()
    reason = " ".join(str(error).split())[:300]
    return ClusterError(
        where,
        f"its worker died and could not be brought back ({reason})",
        "",
        "what is stored is safe: find the cause (memory?) and run the same command again",
    )
