"""Parquet tables of a database: embeddings, thumbnails, proposal counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int64

from rdm_batch.errors import DatabaseError
from rdm_batch.files import UNREADABLE, written_aside

_EMBEDDING_GROUP = 8_192
_THUMBNAIL_GROUP = 256
# Embeddings over the bytes of their file, at most: they hardly shrink, unless all are equal.
_MOST_EXPANSION = 10_000


@dataclass(frozen=True)
class ShardRows:
    """Hold the rows of one shard as they are written.

    Attributes:
        first_row: Global id of the first row.
        embeddings: Raw (not normalized) float16 or float32 rows.
        item_ids: Identity of the source image of each row.
        patch_coords: Crop (x0, y0, x1, y1) in pixels of the source image, or None for
            whole images.
        captions: Caption of each row, None where there is none.
        thumbnails: PNG files, or None to store none.
        urls: Address of each row, None where there is none; or None to store none.
        images: PNG files with all of the pixels that are kept, or None to store none.
    """

    first_row: int
    embeddings: Float[np.ndarray, "rows dim"]
    item_ids: Sequence[str]
    patch_coords: Sequence[tuple[int, int, int, int] | None]
    captions: Sequence[str | None]
    thumbnails: Sequence[bytes] | None
    urls: Sequence[str | None] | None = None
    images: Sequence[bytes] | None = None


def write_embeddings(path: Path, rows: ShardRows, with_rows: bool = True) -> None:
    """Write the table of one shard.

    Args:
        path: The file.
        rows: The rows.
        with_rows: Whether it holds the embeddings. Not where they have a file of their own.
    """
    count, dim = rows.embeddings.shape
    columns = {
        "row_id": pa.array(np.arange(rows.first_row, rows.first_row + count)),
        "item_id": pa.array(list(rows.item_ids), pa.string()),
        "patch_coords": pa.array(list(rows.patch_coords), pa.list_(pa.int32(), 4)),
        "caption": pa.array(list(rows.captions), pa.string()),
    }
    if rows.urls is not None and any(rows.urls):
        columns["url"] = pa.array(list(rows.urls), pa.string())
    order = list(columns)
    if with_rows:
        values = pa.array(np.ascontiguousarray(rows.embeddings).reshape(-1))
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, dim)
        order.insert(1, "embedding")
    _write(
        pa.table({name: columns[name] for name in order}),
        path,
        row_group_size=_EMBEDDING_GROUP,
        compression="zstd",
        use_dictionary=["caption"],
        write_statistics=["row_id"],
    )


def read_embeddings(path: Path, rows: int, dim: int, dtype: str) -> Float[np.ndarray, "rows dim"]:
    """Read the embedding column into one array, holding no second copy of it.

    Raises:
        DatabaseError: The file is not readable parquet or has another shape or type.
    """
    wanted = f"{rows:,} rows of {dim} {dtype} values"
    try:
        file = pq.ParquetFile(path)
        check_column(file, rows, dim, dtype, str(path))
        if rows * dim * np.dtype(dtype).itemsize > _MOST_EXPANSION * path.stat().st_size:
            found = f"{path.stat().st_size:,} bytes that claim to hold them"
            raise DatabaseError(str(path), found, wanted, "rebuild the database")
        embeddings = np.empty((rows, dim), dtype=dtype)
        start = 0
        for batch in file.iter_batches(batch_size=_EMBEDDING_GROUP, columns=["embedding"]):
            part = batch.column(0).flatten().to_numpy(zero_copy_only=False)
            embeddings[start : start + len(batch)] = part.reshape(-1, dim)
            start += len(batch)
    except (pa.ArrowException, *UNREADABLE) as error:
        raise DatabaseError(
            str(path), f"unreadable ({error})", wanted, "copy the database again or rebuild it"
        ) from error
    return embeddings


def check_column(file: pq.ParquetFile, rows: int, dim: int, dtype: str, where: str) -> None:
    """Refuse a table whose embeddings are not what the manifest says.

    Raises:
        DatabaseError: It has another number of rows, or rows of another width or type.
    """
    kind = file.schema_arrow.field("embedding").type
    matches = (
        pa.types.is_fixed_size_list(kind)
        and kind.list_size == dim
        and kind.value_type == pa.from_numpy_dtype(np.dtype(dtype))
        and file.metadata.num_rows == rows
    )
    if not matches:
        raise DatabaseError(
            where,
            f"{file.metadata.num_rows:,} rows of {kind}",
            f"{rows:,} rows of {dim} {dtype} values",
            "rebuild the database",
        )


def write_thumbnails(path: Path, first_row: int, thumbnails: Sequence[bytes]) -> None:
    """Write the pictures of one shard, small or whole, in small groups for random access."""
    table = pa.table(
        {
            "row_id": pa.array(np.arange(first_row, first_row + len(thumbnails))),
            "png": pa.array(list(thumbnails), pa.binary()),
        }
    )
    _write(
        table,
        path,
        row_group_size=_THUMBNAIL_GROUP,
        compression="none",
        use_dictionary=False,
        write_statistics=["row_id"],
    )


def read_thumbnails(path: Path, positions: Int64[np.ndarray, " n"]) -> list[bytes]:
    """Read the PNG files at some positions of a shard, reading only their row groups.

    Raises:
        DatabaseError: The file is not readable parquet with that many pictures.
    """
    found: dict[int, bytes] = {}
    try:
        file = pq.ParquetFile(path)
        for group in sorted(set((positions // _THUMBNAIL_GROUP).tolist())):
            column = file.read_row_group(group, columns=["png"]).column(0)
            start = group * _THUMBNAIL_GROUP
            for position in positions[positions // _THUMBNAIL_GROUP == group].tolist():
                found[position] = column[position - start].as_py()
    except (pa.ArrowException, *UNREADABLE) as error:
        raise DatabaseError(
            str(path), f"unreadable ({error})", "a table of pictures", "copy the database again"
        ) from error
    return [found[position] for position in positions.tolist()]


def write_counts(
    path: Path, row_ids: Int64[np.ndarray, " rows"], counts: Int64[np.ndarray, " rows"]
) -> None:
    """Write how often each row is a neighbor of the training set, most frequent first."""
    _write(pa.table({"row_id": row_ids, "count": counts}), path, compression="zstd")


def read_counts(path: Path) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " rows"]]:
    """Read the table of :func:`write_counts`.

    Raises:
        DatabaseError: The file is not readable parquet with integer columns.
    """
    try:
        table = pq.read_table(path, columns=["row_id", "count"])
        row_ids, counts = (
            table.column(name).cast(pa.int64()).to_numpy() for name in ("row_id", "count")
        )
    except (pa.ArrowException, *UNREADABLE) as error:
        raise DatabaseError(
            str(path), f"unreadable ({error})", "a proposal table", "rebuild it"
        ) from error
    return row_ids, counts


def write_removed(path: Path, row_ids: Int64[np.ndarray, " rows"]) -> None:
    """Write the rows that no search finds any more, rising."""
    _write(pa.table({"row_id": row_ids}), path, compression="zstd")


def read_removed(path: Path, rows: int) -> Int64[np.ndarray, " gone"]:
    """Read the table of :func:`write_removed`.

    Args:
        path: The file.
        rows: Rows of the database.

    Raises:
        DatabaseError: The file is not readable parquet, or holds other numbers than rising ids
            of rows.
    """
    try:
        column = pq.read_table(path, columns=["row_id"]).column("row_id")
        ids: Int64[np.ndarray, " gone"] = column.cast(pa.int64()).to_numpy()
    except (pa.ArrowException, *UNREADABLE) as error:
        raise DatabaseError(
            str(path), f"unreadable ({error})", "a table of row ids", "copy the database again"
        ) from error
    if len(ids) and (ids[0] < 0 or ids[-1] >= rows or (np.diff(ids) <= 0).any()):
        raise DatabaseError(str(path), "other numbers", f"rising row ids below {rows:,}")
    return ids


def _write(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a table aside: under its own name nobody ever finds half of one."""
    with written_aside(path) as aside:
        pq.write_table(table, aside, **options)
