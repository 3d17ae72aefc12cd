"""What became of retriever actors: how often one was brought back, which shard no process survives.

Ray counts the lives of an actor; nobody else can, for what dies in a library tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ray._private.state import actors
from ray.exceptions import RayError

from rdm_batch.cluster.retrievers import RemotePart, RowRange
from rdm_batch.errors import ClusterError
from rdm_batch.reports.run_report import LostRetriever
from rdm_batch.storage.object_store import redact


def losses(parts: Sequence[RemotePart]) -> tuple[LostRetriever, ...]:
    """Count how often retrievers were lost so far; only those that ever were, or may have been.

    Args:
        parts: What the retrievers hold.
    """
    found = []
    for part in parts:
        state = _state(part.actor)
        if state is None:
            found.append(LostRetriever(holds=part.name, times=None))
            continue
        times = int(state.get("NumRestarts", 0)) + (state.get("State") == "DEAD")
        if times:
            found.append(LostRetriever(holds=part.name, times=times))
    return tuple(found)


def refuse_deadly_shards(
    uri: str,
    parts: Sequence[RemotePart],
    ranges: Sequence[RowRange],
    opens: Callable[[int], bool],
) -> None:
    """Find the shard that ends every process that opens it, where a retriever is gone for good.

    Args:
        uri: The database.
        parts: What the retrievers hold.
        ranges: The shards of each.
        opens: Opens one shard in a process of its own; tells whether that process lived.

    Raises:
        ClusterError: There is one; names it.
    """
    gone = [
        held
        for part, held in zip(parts, ranges, strict=True)
        if (_state(part.actor) or {}).get("State") == "DEAD"
    ]
    for shard in (number for held in gone for number in held.shards):
        if not opens(shard):
            raise ClusterError(
                f"{redact(uri)} shard {shard}",
                "ends every process that opens it",
                "an index that ScaNN can load",
                "compare it with its digests (`rdm-batch database check`), build the database "
                "again, or search it without its index (database.engine: exact)",
            )


def _state(actor: Any) -> dict[str, Any] | None:
    """Ask Ray what it knows of an actor. None: it does not answer, or was left."""
    # No interface of Ray's tells this without its dashboard, which nobody has to run.
    try:
        return dict(actors(actor._actor_id.hex()))
    except (RayError, OSError):
        return None
