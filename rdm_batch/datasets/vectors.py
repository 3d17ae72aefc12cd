"""Vectors in a column of a parquet file, read in pieces and without trust."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from rdm_batch.datasets.tables import parquet_errors
from rdm_batch.errors import DatabaseError
from rdm_batch.files import open_regular

MAX_WIDTH: Final = 65_536
"""Numbers of a vector."""
_NAMES: Final = ("embedding", "image_embedding", "vector", "emb")
_BATCH_ROWS: Final = 2_048
_PARQUET_LISTS: Final = 1_000_000


class VectorColumn:
    """Read a column of vectors of one width.

    Args:
        path: The parquet file.
        column: Its name. None: ``embedding``, another usual name, or the only column of lists.

    Attributes:
        column: Its name.
        names: Of all columns of the file.
        num_rows: Rows the file says it has; ``batches`` refuses other numbers.

    Raises:
        DatabaseError: The file is damaged, or has no such column.
    """

    def __init__(self, path: Path, column: str | None = None) -> None:
        self.path = path
        with self._opened() as file:
            schema = file.schema_arrow
            self.num_rows = int(file.metadata.num_rows)
        self.names = list(schema.names)
        self.column = _column(path, schema, column)

    def batches(self) -> Iterator[Float[np.ndarray, "rows dim"]]:
        """Stream the vectors; float64 becomes float32.

        Raises:
            DatabaseError: A row is no vector or of another width, or the file is damaged.
        """
        width, seen = None, 0
        with self._opened() as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=[self.column], use_threads=False):
                batch.validate(full=True)
                rows = self._rows(batch.column(0), seen)
                if width is None:
                    width = rows.shape[1]
                if len(rows) and rows.shape[1] != width:
                    raise self._uneven(seen)
                seen += len(rows)
                yield rows
        if seen != self.num_rows:
            raise DatabaseError(str(self.path), f"{seen:,} rows", f"{self.num_rows:,}")

    def read(self, start: int, stop: int) -> Float[np.ndarray, "rows dim"]:
        """Read a range of rows; only the row groups that hold them are opened.

        Args:
            start: First row.
            stop: The row behind the last one; at most ``num_rows`` counts.

        Raises:
            DatabaseError: As ``batches``.
        """
        stop, parts = min(stop, self.num_rows), []
        with self._opened() as file:
            sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            groups = [n for n in range(len(sizes)) if starts[n] < stop and starts[n + 1] > start]
            first = int(starts[groups[0]]) if groups else start
            for batch in file.iter_batches(
                _BATCH_ROWS, row_groups=groups, columns=[self.column], use_threads=False
            ):
                if first >= stop:
                    break
                if first + batch.num_rows > start:
                    batch.validate(full=True)
                    rows = self._rows(batch.column(0), first)
                    parts.append(rows[max(0, start - first) : stop - first])
                    if parts[0].shape[1] != rows.shape[1]:
                        raise self._uneven(first)
                first += batch.num_rows
        found = sum(map(len, parts))
        if found != stop - start:
            raise DatabaseError(str(self.path), f"{found:,} rows", f"{stop - start:,}")
        return np.concatenate(parts)

    def _rows(self, vectors: pa.Array, first: int) -> Float[np.ndarray, "rows dim"]:
        values = vectors.flatten()
        if vectors.null_count or values.null_count:
            raise DatabaseError(
                str(self.path), f"rows from {first:,} on hold no vector", "one a row"
            )
        if pa.types.is_fixed_size_list(vectors.type):
            width = vectors.type.list_size
        else:
            lengths = np.diff(vectors.offsets.to_numpy())
            width = int(lengths[0]) if len(lengths) else 0
            if (lengths != width).any():
                raise self._uneven(first)
        if not 1 <= width <= MAX_WIDTH and len(vectors):
            raise DatabaseError(str(self.path), f"vectors of {width:,} numbers", "1 to 65,536")
        array = values.to_numpy(zero_copy_only=False)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return array.reshape(len(vectors), width)

    def _uneven(self, first: int) -> DatabaseError:
        found = f"vectors of several widths in rows from {first:,} on"
        return DatabaseError(str(self.path), found, "one width")

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        with parquet_errors(str(self.path), DatabaseError), open_regular(self.path) as raw:
            yield pq.ParquetFile(raw, thrift_container_size_limit=_PARQUET_LISTS)


def _column(path: Path, schema: pa.Schema, wanted: str | None) -> str:
    lists = [field.name for field in schema if _is_vector(field.type)]
    if wanted is None:
        wanted = next((name for name in _NAMES if name in lists), None)
        if wanted is None and len(lists) == 1:
            wanted = lists[0]
    if wanted is not None and wanted in lists and schema.names.count(wanted) == 1:
        return wanted
    raise DatabaseError(
        str(path),
        f"columns {', '.join(schema.names)}" if wanted is None else f"no vectors in {wanted!r}",
        "a column of lists of float16, float32 or float64",
        f"name one of {', '.join(lists)}" if lists else "name the file that holds the vectors",
    )


def _is_vector(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return (lists or pa.types.is_fixed_size_list(kind)) and pa.types.is_floating(kind.value_type)
