"""Images in parquet tables that follow the Hugging Face Image convention."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rdm_batch.datasets.decode import MAX_PIXELS, decode_image, read_size
from rdm_batch.datasets.source import ImageItem
from rdm_batch.errors import ImageError

_CAPTION_COLUMNS = ("caption", "text", "prompt")


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
    of this package are such tables, so they serve as sources too.

    Args:
        root: A parquet file, or a folder; its files are taken in the order of their names.
        column: Name of the image column.
        max_pixels: Larger images are refused when they are asked for.

    Raises:
        ImageError: Nothing is there, a file is damaged, or it has no image column. An
            image that cannot be decoded raises it when it is asked for.
    """

    def __init__(self, root: Path, column: str = "image", max_pixels: int = MAX_PIXELS) -> None:
        self._root = root
        self._column = column
        self._max_pixels = max_pixels
        self._paths = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
        if not self._paths:
            raise ImageError(str(root), "no parquet files", "a parquet file or a folder of them")
        self._groups: list[_RowGroup] = []
        sizes: list[int] = []
        for path in self._paths:
            metadata = self._check(path)
            first_row = 0
            for group in range(metadata.num_row_groups):
                self._groups.append(_RowGroup(path, group, first_row))
                first_row += metadata.row_group(group).num_rows
                sizes.append(metadata.row_group(group).num_rows)
        self._starts: list[int] = [0, *accumulate(sizes)]
        self._loaded: tuple[int, pa.Table] | None = None

    def _check(self, path: Path) -> pq.FileMetaData:
        try:
            file = pq.ParquetFile(path)
            schema = file.schema_arrow
            kind = schema.field(self._column).type if self._column in schema.names else None
        except (pa.ArrowException, OSError) as problem:
            raise ImageError(str(path), f"unreadable ({problem})", "a parquet file") from problem
        if kind is not None and pa.types.is_struct(kind):
            kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else None
        if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise ImageError(
                str(path),
                f"columns {', '.join(schema.names)}",
                f"a column {self._column!r} of struct<bytes, path> or binary",
                "name the image column, or write the table by the Hugging Face Image convention",
            )
        return file.metadata

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
        return read_size(data, f"{self._root}: {item_id}")

    def _row(self, index: int) -> tuple[bytes, str, dict[str, Any]]:
        """Give the image file of a row, the row's name, and its other columns."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, index) - 1
        group, place = self._groups[number], index - self._starts[number]
        if self._loaded is None or self._loaded[0] != number:
            self._loaded = (number, self._read(group))
        table = self._loaded[1]
        row = {name: table.column(name)[place].as_py() for name in table.column_names}
        name = group.path.name
        if group.path != self._root:
            name = group.path.relative_to(self._root).as_posix()
        item_id = f"{name}#{group.first_row + place}"
        value = row.pop(self._column)
        data = value["bytes"] if isinstance(value, dict) else value
        if data is None:
            raise ImageError(f"{self._root}: {item_id}", "no image bytes", "an embedded image")
        return data, item_id, row

    def _read(self, group: _RowGroup) -> pa.Table:
        try:
            file = pq.ParquetFile(group.path)
            schema = file.schema_arrow
            captions = [
                name
                for name in _CAPTION_COLUMNS
                if name in schema.names and pa.types.is_string(schema.field(name).type)
            ]
            return file.read_row_group(group.number, columns=[self._column, *captions])
        except (pa.ArrowException, OSError) as problem:
            raise ImageError(
                str(group.path),
                f"row group {group.number} is unreadable ({problem})",
                "a whole parquet file",
            ) from problem
