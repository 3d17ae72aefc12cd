"""Fan the missing shards of a sample set out to head actors and wait for their commits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray

from rdm_batch.engine.plan import ShardRange
from rdm_batch.engine.worker import ContextSource
from rdm_batch.errors import ClusterError, RdmBatchError
from rdm_batch.pipelines.heads import SHARDS_IN_FLIGHT
from rdm_batch.storage.manifest import ShardEntry

_POLL_S = 1.0


def make_shards(
    heads: Sequence[Any],
    shards: Sequence[ShardRange],
    source: ContextSource,
    run_id: str,
    on_commit: Callable[[ShardEntry], None],
    on_wait: Callable[[], None],
) -> None:
    """Make every shard, each on whichever head is free first.

    Args:
        heads: Head actors.
        shards: What is missing.
        source: What samples are conditioned on.
        run_id: Recorded in the entries.
        on_commit: Called with each entry as soon as it is stored.
        on_wait: Called at least once a second, for progress lines.

    Raises:
        RdmBatchError: A shard failed for a reason that repeating cannot cure.
        ClusterError: An actor died more often than Ray may restart it.
    """
    waiting = deque(shards)
    # Travels with every call, not with the actors: Ray cannot restart an actor whose own
    # arguments have left the object store. It is stored once, and read without copying.
    shared = ray.put(source)
    running: dict[Any, tuple[Any, ShardRange]] = {}

    def feed(head: Any) -> None:
        if waiting:
            shard = waiting.popleft()
            running[head.make.remote(shard, shared, run_id)] = (head, shard)

    # Round by round, so that few shards are spread over all heads, not piled on the first.
    for _ in range(SHARDS_IN_FLIGHT):
        for head in heads:
            feed(head)
    while running:
        done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_S)
        on_wait()
        for reference in done:
            head, shard = running.pop(reference)
            on_commit(result_of(reference, f"shard {shard.index}"))
            feed(head)


def result_of(reference: Any, where: str) -> Any:
    """Wait for a remote call and raise its failure as the error it was over there.

    Args:
        reference: What a remote call returned.
        where: What was being done, for the message.

    Raises:
        RdmBatchError: The call raised one.
        ClusterError: The actor is gone for good.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error
        while isinstance(cause, ray.exceptions.RayTaskError):
            cause = cause.cause
        if isinstance(cause, RdmBatchError):
            raise cause from None
        raise
    except ray.exceptions.RayActorError as error:
        reason = " ".join(str(error).split())[:300]
        raise ClusterError(
            where,
            f"its actor died and could not be brought back ({reason})",
            "",
            "what is stored is safe: find the cause (memory?) and run the same command again",
        ) from None
