"""What searching a shard takes of the memory, before it is opened and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.database import DatabaseManifest, DatabaseShard
from rdm_batch.retrieval.effort import SearchEffort

_STATUS = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")


def resident_bytes_of(
    shard: DatabaseShard, manifest: DatabaseManifest, effort: SearchEffort
) -> int:
    """Count the bytes that an opened shard keeps in memory, without files that are mapped.

    Rows of a table are read as they are stored; a scan keeps them once more, normalized in
    float32; an index keeps what its files hold.
    """
    values = shard.rows * manifest.dim
    kept = 0 if shard.rows_file is not None else values * np.dtype(manifest.dtype).itemsize
    if effort.exactly:
        return kept
    if shard.index.resolve(shard.rows).kind == "brute_force":
        kept += 4 * values
    return kept + sum(file.num_bytes for file in shard.index_files)


def anonymous_bytes() -> int:
    """Count the memory of this process that is no file of the page cache."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)


def available_bytes() -> int:
    """Count the memory that this process may still take: of the machine, and of its container."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        cached = dict(
            line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines()
        ).get("file", "0")
    except (OSError, ValueError):
        return available
    return available if limit == "max" else min(available, int(limit) - used + int(cached))


def refuse_without_room(where: str, needed: int) -> None:
    """Refuse to open a shard that this machine has no memory for, before the kernel kills for it.

    Raises:
        DatabaseError: There is less memory than it needs.
    """
    available = available_bytes()
    if needed > available:
        raise DatabaseError(
            where,
            f"{available / 1e9:,.2f} GB of memory are free",
            f"{needed / 1e9:,.2f} GB for its index and rows",
            "set database.engine: exact, which holds one block of rows at a time, or spread the "
            "database over retrievers on more machines (database.retriever_shards)",
        )
