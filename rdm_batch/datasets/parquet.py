"""Images in parquet tables that follow the Hugging Face Image convention."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from rdm_batch.datasets.decode import MAX_FILE_BYTES, MAX_PIXELS, decode_image, read_size
from rdm_batch.datasets.listing import list_folder
from rdm_batch.datasets.source import ImageItem
from rdm_batch.errors import ImageError
from rdm_batch.files import UNREADABLE, open_regular

MAX_COLUMNS: Final = 10_000
"""Columns of a table, and row groups of a file: more of them only take time to list."""
_CAPTION_COLUMNS = ("caption", "text", "prompt")
# Rows decoded at once: a file may repeat one large picture, at no cost to itself.
_BATCH_ROWS = 16


@dataclass(frozen=True)
class _RowGroup:
    """Locate a row group: its file, its number there, and the file's row it starts with."""

    path: Path
    number: int
    first_row: int


class ImageParquet:
    """Serve the images of one parquet file, or of every parquet file below a folder.

    The image column is ``struct<bytes, path>`` or binary and holds PNG, JPEG or WebP
    files. Only embedded bytes are read: a row with nothing but a path is refused. The
    first of the columns ``caption``, ``text`` and ``prompt`` is the caption. Sample sets
    of this package are such tables, so they serve as sources too. Rows are read a few at a
    time; going forward is quick, going back begins the row group again.

    Args:
        root: A parquet file, or a folder; its files are taken in the order of their names.
        column: Name of the image column.
        max_pixels: Larger images are refused when they are asked for.

    Raises:
        ImageError: Nothing is there, a file is damaged or claims what it cannot hold, or it has
            no image column. An image that cannot be decoded raises it when it is asked for.
    """

    def __init__(self, root: Path, column: str = "image", max_pixels: int = MAX_PIXELS) -> None:
        self._root = root
        self._column = column
        self._max_pixels = max_pixels
        self._paths = [root]
        if root.is_dir():
            self._paths = sorted(root / name for name in list_folder(root).tables)
        if not self._paths:
            raise ImageError(str(root), "no parquet files", "a parquet file or a folder of them")
        self._groups: list[_RowGroup] = []
        sizes: list[int] = []
        for path in self._paths:
            first_row = 0
            for group, rows in enumerate(self._check(path)):
                self._groups.append(_RowGroup(path, group, first_row))
                first_row += rows
                sizes.append(rows)
        self._starts: list[int] = [0, *accumulate(sizes)]
        self._reading: _Reading | None = None

    def _check(self, path: Path) -> list[int]:
        """Give the rows of every row group, once the file is one that can be served."""
        with _damage(str(path), "a parquet file"), open_regular(path) as raw:
            num_bytes = path.stat().st_size
            file = _open(raw)
            metadata, schema = file.metadata, file.schema_arrow
            if len(schema.names) > MAX_COLUMNS or metadata.num_row_groups > MAX_COLUMNS:
                found = f"{len(schema.names):,} columns, {metadata.num_row_groups:,} row groups"
                raise ImageError(str(path), found, f"at most {MAX_COLUMNS:,} of either")
            rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        if min(rows, default=0) < 0 or sum(rows) > num_bytes:
            found = f"says it holds {sum(rows):,} rows in {num_bytes:,} bytes"
            raise ImageError(str(path), found, "a byte a row at least")
        if not _is_image(schema, self._column):
            raise ImageError(
                str(path),
                f"columns {', '.join(schema.names)}",
                f"a column {self._column!r} of struct<bytes, path> or binary",
                "name the image column, or write the table by the Hugging Face Image convention",
            )
        return rows

    def __len__(self) -> int:
        """Count the rows."""
        return self._starts[-1]

    def __getitem__(self, index: int) -> ImageItem:
        """Decode the image of one row."""
        data, item_id, row = self._row(index)
        return ImageItem(
            image=decode_image(data, f"{self._root}: {item_id}", self._max_pixels),
            item_id=item_id,
            caption=next((text for text in row.values() if text), None),
        )

    def size(self, index: int) -> tuple[int, int]:
        """Read height and width of one image without decoding it."""
        data, item_id, _ = self._row(index)
        return read_size(data, f"{self._root}: {item_id}", self._max_pixels)

    def _row(self, index: int) -> tuple[bytes, str, dict[str, Any]]:
        """Give the image file of a row, the row's name, and its other columns."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, index) - 1
        group, place = self._groups[number], index - self._starts[number]
        if self._reading is None or not self._reading.can_reach(group, place):
            self._reading = _Reading(group, self._column)
        with _damage(str(group.path), f"a whole row group {group.number}"):
            row = self._reading.row(place)
        name = group.path.name
        if group.path != self._root:
            name = group.path.relative_to(self._root).as_posix()
        item_id = f"{name}#{group.first_row + place}"
        value = row.pop(self._column)
        data = value["bytes"] if isinstance(value, dict) else value
        if data is None:
            raise ImageError(f"{self._root}: {item_id}", "no image bytes", "an embedded image")
        if len(data) > MAX_FILE_BYTES:
            found = f"an image of {len(data):,} bytes"
            raise ImageError(f"{self._root}: {item_id}", found, f"at most {MAX_FILE_BYTES:,}")
        return data, item_id, row

    def __getstate__(self) -> dict[str, Any]:
        # A place in an open file is nothing that could be sent.
        return {**self.__dict__, "_reading": None}


class _Reading:
    """Go forward through a row group, a few rows at a time.

    Args:
        group: The row group.
        column: The image column.
    """

    def __init__(self, group: _RowGroup, column: str) -> None:
        self._group = group
        self._column = column
        self._rows: Iterator[pa.RecordBatch] | None = None
        self._batch: pa.RecordBatch | None = None
        self._first = 0

    def can_reach(self, group: _RowGroup, place: int) -> bool:
        """Say whether a row is here or ahead."""
        return group == self._group and place >= self._first

    def row(self, place: int) -> dict[str, Any]:
        """Give the row at a place of the group, the columns that are wanted of it."""
        if self._rows is None:
            self._rows = self._batches()
            self._batch = next(self._rows, None)
        while self._batch is not None and place >= self._first + self._batch.num_rows:
            self._first += self._batch.num_rows
            self._batch = next(self._rows, None)
        if self._batch is None:
            raise ValueError("it ends before its rows do")
        batch, row = self._batch, place - self._first
        return {name: batch.column(name)[row].as_py() for name in batch.schema.names}

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with open_regular(self._group.path) as raw:
            file = _open(raw)
            schema = file.schema_arrow
            captions = [
                name
                for name in _CAPTION_COLUMNS
                if name in schema.names and pa.types.is_string(schema.field(name).type)
            ]
            yield from file.iter_batches(
                _BATCH_ROWS,
                row_groups=[self._group.number],
                columns=[self._column, *captions],
                use_threads=False,
            )


def _open(raw: Any) -> pq.ParquetFile:
    # Lists of more than that are refused while the footer is read, before they take memory.
    return pq.ParquetFile(raw, thrift_container_size_limit=1_000_000)


def _is_image(schema: pa.Schema, column: str) -> bool:
    if schema.names.count(column) != 1:
        return False
    kind = schema.field(column).type
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else None
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@contextmanager
def _damage(where: str, needed: str) -> Iterator[None]:
    """Say of whatever pyarrow raises that the file cannot be read."""
    try:
        yield
    except ImageError:
        raise
    except (pa.ArrowException, *UNREADABLE) as problem:
        reason = str(problem) or type(problem).__name__
        if isinstance(problem, OSError) and problem.strerror:
            reason = problem.strerror
        raise ImageError(where, f"unreadable ({reason})", needed) from problem
