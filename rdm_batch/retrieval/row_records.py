"""What a database knows of its rows besides their embeddings: where each came from, its caption."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from rdm_batch.errors import DatabaseError
from rdm_batch.files import UNREADABLE

_COLUMNS = ("item_id", "patch_coords", "caption")
_URL = "url"
_WEB = ("http://", "https://")


@dataclass(frozen=True)
class RowRecord:
    """Say what one row of a database is.

    Attributes:
        item_id: The source image: its path, its address, its number.
        caption: Its caption; None where it has none.
        patch_coords: The part of the source image (x0, y0, x1, y1) in pixels; None for the whole.
        url: Its address; None where it has none.
    """

    item_id: str
    caption: str | None = None
    patch_coords: tuple[int, ...] | None = None
    url: str | None = None

    @property
    def address(self) -> str | None:
        """Give its address, also where an earlier version stored it as the source image."""
        return self.url or (self.item_id if self.item_id.startswith(_WEB) else None)

    @property
    def text(self) -> str:
        """Say what it is in a line: caption and address, as far as they are known."""
        return " \u00b7 ".join(part for part in (self.caption, self.address) if part)


def read_records(
    file: io.BufferedIOBase, positions: Int64[np.ndarray, " n"], where: str
) -> list[RowRecord]:
    """Read what is known of the rows at some positions of a shard, reading only their row groups.

    Args:
        file: The embeddings table of the shard.
        positions: Positions of the rows in the shard.
        where: Names the file in messages.

    Raises:
        DatabaseError: The file is not readable parquet with these columns and that many rows.
    """
    found: dict[int, RowRecord] = {}
    try:
        table = pq.ParquetFile(file)
        metadata = table.metadata
        sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        # Tables whose rows have no addresses have no column of them.
        columns = [*_COLUMNS, *({_URL} & set(table.schema_arrow.names))]
        groups = np.searchsorted(starts, positions, side="right") - 1
        for group in np.unique(groups).tolist():
            here = positions[groups == group]
            rows = table.read_row_group(group, columns=columns)
            taken = rows.take(pa.array(here - starts[group]))
            for position, row in zip(here.tolist(), taken.to_pylist(), strict=True):
                box = row["patch_coords"]
                found[position] = RowRecord(
                    str(row["item_id"]),
                    row["caption"] or None,
                    None if box is None else tuple(box),
                    row.get(_URL) or None,
                )
    except (pa.ArrowException, *UNREADABLE) as error:
        raise DatabaseError(
            where, f"unreadable ({error})", "a table of rows", "copy the database again"
        ) from error
    return [found[position] for position in positions.tolist()]
