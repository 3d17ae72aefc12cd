"""Checks of embedding rows, and their directions.

ScaNN ends the process on a non-finite row and answers with row 0 for a non-finite query,
so every array passes :func:`check_embeddings` before it comes near an index.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

from rdm_batch.errors import DatabaseError

# Values copied to float64 at a time: 16 MB.
_BLOCK_VALUES = 1 << 21


def check_embeddings(
    embeddings: Float[np.ndarray, "rows dim"], where: str, first_row: int = 0
) -> None:
    """Refuse rows that have no direction: NaN, infinite or all zero.

    Args:
        embeddings: Rows as they will be stored, that is, after any cast to float16.
        where: URI or description used in the message.
        first_row: Row id of the first row, so that the message names the database's row.

    Raises:
        DatabaseError: A row is not finite or has norm zero; the first one is named.
    """
    finite = np.isfinite(embeddings).all(axis=1)
    _refuse(finite, where, first_row, "holds NaN or infinite values", "finite embeddings")
    nonzero = (embeddings != 0).any(axis=1)
    _refuse(nonzero, where, first_row, "has norm 0", "a non-zero embedding, which has a direction")


def _refuse(good: np.ndarray, where: str, first_row: int, found: str, needed: str) -> None:
    if good.all():
        return
    bad = np.flatnonzero(~good)
    raise DatabaseError(
        where,
        f"row {first_row + int(bad[0])} {found} ({bad.size} of {good.size} rows do)",
        needed,
        "recompute or remove these rows",
    )


def _blocks(rows: int, dim: int) -> list[slice]:
    step = max(1, _BLOCK_VALUES // max(1, dim))
    return [slice(start, start + step) for start in range(0, rows, step)]


def unit_rows(embeddings: Float[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
    """Divide each row by its norm, in blocks so that float64 copies stay small."""
    unit = np.empty(embeddings.shape, dtype=np.float32)
    for part in _blocks(*embeddings.shape):
        block = embeddings[part].astype(np.float64)
        unit[part] = block / np.sqrt(np.vecdot(block, block))[:, None]
    return unit
