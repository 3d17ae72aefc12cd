"""The rows of a shard where they lie: in its table, or in a file of their own that is mapped.

Shards that are scanned are read into memory anyway, from their parquet table. Those of the index
that keeps only codes in memory have their rows in a ``.npy`` file, which is mapped: what a query
rescores is read, and the rest never. Whole passes over all rows read it block by block instead,
for a machine that waits for page faults waits for each of them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from rdm_batch.errors import DatabaseError
from rdm_batch.files import UNREADABLE, written_aside
from rdm_batch.retrieval.database import DatabaseManifest, DatabaseShard
from rdm_batch.retrieval.tables import check_column, read_embeddings

_WRITE_ROWS = 65_536


def write_rows(path: Path, rows: Float[np.ndarray, "rows dim"]) -> None:
    """Write rows as a ``.npy`` file, complete or not at all."""
    with written_aside(path) as aside, aside.open("wb") as file:
        file.write(_header(rows.shape, rows.dtype.name))
        for start in range(0, len(rows), _WRITE_ROWS):
            file.write(np.ascontiguousarray(rows[start : start + _WRITE_ROWS]).data)


def shard_rows(
    root: Path, shard: DatabaseShard, manifest: DatabaseManifest
) -> Float[np.ndarray, "rows dim"]:
    """Open the rows of a shard of a local database folder.

    Args:
        root: The folder.
        shard: The shard.
        manifest: Of the database.

    Returns:
        The rows as stored: mapped where they have a file of their own, else read.

    Raises:
        DatabaseError: The file is not readable, or holds something else.
    """
    if shard.rows_file is None:
        path = root / shard.embeddings.path
        return read_embeddings(path, shard.rows, manifest.dim, manifest.dtype)
    path, shape = root / shard.rows_file.path, (shard.rows, manifest.dim)
    header = _header(shape, manifest.dtype)
    try:
        with path.open("rb") as file:
            _check_header(file, header, shape, manifest.dtype, path)
        return np.memmap(path, manifest.dtype, mode="r", offset=len(header), shape=shape)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def row_blocks(
    file: io.BufferedIOBase,
    shard: DatabaseShard,
    manifest: DatabaseManifest,
    start: int,
    stop: int,
    block_rows: int,
    where: str,
) -> Iterator[tuple[int, Float[np.ndarray, "rows dim"]]]:
    """Read some rows of a shard block by block, from anywhere, with explicit reads.

    Args:
        file: The file of the rows, or the table that holds them, open for seeking.
        shard: The shard.
        manifest: Of the database.
        start: First row, counted within the shard.
        stop: One past the last.
        block_rows: Rows of a block; a table gives those of its row groups instead.
        where: Named in messages.

    Yields:
        The position of each block's first row within the shard, and the block.

    Raises:
        DatabaseError: The file is not readable, or holds something else.
    """
    blocks = _table_blocks if shard.rows_file is None else _file_blocks
    try:
        yield from blocks(file, shard, manifest, start, stop, block_rows, where)
    except (pa.ArrowException, *UNREADABLE) as error:
        raise _unreadable(where, error) from error


def _file_blocks(
    file: io.BufferedIOBase,
    shard: DatabaseShard,
    manifest: DatabaseManifest,
    start: int,
    stop: int,
    block_rows: int,
    where: str,
) -> Iterator[tuple[int, Float[np.ndarray, "rows dim"]]]:
    shape = shard.rows, manifest.dim
    header = _header(shape, manifest.dtype)
    _check_header(file, header, shape, manifest.dtype, where)
    row_bytes = manifest.dim * np.dtype(manifest.dtype).itemsize
    file.seek(len(header) + start * row_bytes)
    for first in range(start, stop, block_rows):
        block = np.empty((min(block_rows, stop - first), manifest.dim), dtype=manifest.dtype)
        view = block.data.cast("B")
        filled = 0
        while filled < len(view):
            count = file.readinto(view[filled:])
            if not count:
                raise ValueError(f"ends after {first:,} rows")
            filled += count
        yield first, block


def _table_blocks(
    file: io.BufferedIOBase,
    shard: DatabaseShard,
    manifest: DatabaseManifest,
    start: int,
    stop: int,
    block_rows: int,
    where: str,
) -> Iterator[tuple[int, Float[np.ndarray, "rows dim"]]]:
    del block_rows
    table = pq.ParquetFile(file)
    check_column(table, shard.rows, manifest.dim, manifest.dtype, where)
    first = 0
    for group in range(table.metadata.num_row_groups):
        count = table.metadata.row_group(group).num_rows
        if first < stop and first + count > start:
            column = table.read_row_group(group, columns=["embedding"]).column(0)
            flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            begin, end = max(start - first, 0), min(stop - first, count)
            yield first + begin, flat.reshape(count, manifest.dim)[begin:end]
        first += count


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    stream = io.BytesIO()
    described = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": tuple(int(length) for length in shape),
    }
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


def _check_header(
    file: io.BufferedIOBase | io.BufferedReader,
    header: bytes,
    shape: tuple[int, ...],
    dtype: str,
    where: str | Path,
) -> None:
    """Compare the beginning of a file with the one it must have; nothing of it is interpreted."""
    if file.read(len(header)) != header:
        raise DatabaseError(
            str(where),
            "begins otherwise",
            f"the .npy header of {shape[0]:,} rows of {shape[1]} {dtype} values",
            "copy the database again or rebuild it",
        )


def _unreadable(where: str | Path, error: BaseException) -> DatabaseError:
    return DatabaseError(
        str(where),
        f"unreadable ({error})",
        "the rows of a shard",
        "copy the database again or rebuild it",
    )
