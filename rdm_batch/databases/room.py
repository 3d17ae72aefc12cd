"""Sizes of shards, and the memory that indexing them takes; refused before the work."""

from __future__ import annotations

import math

import numpy as np

from rdm_batch.errors import SpecError

SHARD_BYTES = 4_000_000_000
"""Of the rows of a shard in float32, at most: beyond 16 GB ScaNN cannot write its index, and a
shard is what is lost and done again."""
_BASE_BYTES = 800_000_000
"""Of a process that has loaded this program and ScaNN and done nothing yet."""
_TRAINING_ROWS = 100_000
_SCANN_BYTES = 14
"""Most that ScaNN 1.4 holds for a value of a row at a time, measured."""


def shards_needed(rows: int, dim: int) -> int:
    """Count the shards that rows must be cut into, at least."""
    return max(1, math.ceil(rows * dim * 4 / SHARD_BYTES))


def check_shards(shards: int, rows: int, dim: int) -> None:
    """Refuse shards that are too large.

    Args:
        shards: Shards asked for.
        rows: Most rows there may be.
        dim: Width of a row.

    Raises:
        SpecError: More shards are needed; says how many.
    """
    needed = shards_needed(rows, dim)
    if shards < needed:
        raise SpecError(
            "--shards",
            f"{shards} for up to {rows:,} rows of {dim}: "
            f"{rows * dim * 4 / shards / 1e9:.1f} GB each in float32",
            f"at least {needed}, for {SHARD_BYTES / 1e9:.0f} GB each",
        )


def build_bytes(shards: int, rows: int, dim: int, dtype: str, workers: int) -> int:
    """Estimate the most memory that indexing takes at a time.

    Every worker holds the rows of a shard as they are stored, and what ScaNN takes for each value
    of them: up to 12 bytes while it learns (rows normalized in float32, its own copy, codes) and 14
    while it gathers the files of its index; besides the sample that codes are learned from. The
    process that sends rows holds those of one shard more. Measured, a million rows of 512 took 9.1
    and 9.4 GB where this says 9.6.

    Args:
        shards: Number of shards.
        rows: Most rows there may be.
        dim: Width of a row.
        dtype: Type they are stored in.
        workers: Workers that index at once.
    """
    shard_rows, stored = math.ceil(rows / shards), np.dtype(dtype).itemsize
    trained = 3 * 4 * min(shard_rows, _TRAINING_ROWS) * dim
    each = shard_rows * dim * (stored + _SCANN_BYTES) + trained + _BASE_BYTES
    waiting = shard_rows * dim * stored if workers > 1 else 0
    return each * min(workers, shards) + waiting


def check_memory(
    ceiling_gb: float | None, shards: int, rows: int, dim: int, dtype: str, workers: int
) -> None:
    """Refuse a ceiling of memory that the work cannot stay below; further arguments as above.

    Raises:
        SpecError: More is needed; says how much, and how many shards would do.
    """
    if ceiling_gb is None:
        return
    needed = build_bytes(shards, rows, dim, dtype, workers)
    if needed <= ceiling_gb * 1e9:
        return
    action = "index with fewer workers or a higher ceiling"
    for more in (shards * 2**power for power in range(1, 12)):
        if build_bytes(more, rows, dim, dtype, workers) <= ceiling_gb * 1e9:
            action = f"cut it into {more} shards, or {action}"
            break
    raise SpecError(
        "--memory", f"{ceiling_gb:g} GB", f"{needed / 1e9:.2f} GB for {shards} shards", action
    )
