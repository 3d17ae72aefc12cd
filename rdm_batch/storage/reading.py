"""Read the shard files of a sample set, one in memory at a time and never on trust."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdm_batch.errors import SampleSetError
from rdm_batch.files import UNREADABLE
from rdm_batch.storage.manifest import SampleSetHeader, ShardEntry
from rdm_batch.storage.store import Store
from rdm_batch.storage.table import ROWS_PER_GROUP, SCHEMA, wrong_sizes


def iter_shard(
    store: Store,
    header: SampleSetHeader,
    entry: ShardEntry,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream the rows of one shard, a row group at a time.

    The file is read whole first: nothing of it is given before its digest is the recorded one.

    Args:
        store: Store of the set.
        header: Header of the set.
        entry: Entry of the shard.
        columns: Columns wanted. None means all.

    Raises:
        SampleSetError: When the file is damaged, a column does not exist, or a row is not
            the planned one.
    """
    where = store.child_uri(entry.file)
    expected = entry.first_index
    try:
        with store.open_recorded(entry) as file, pq.ParquetFile(file) as parquet:
            others = [name for name in parquet.schema_arrow.names if name not in SCHEMA.names]
            known = [*SCHEMA.names, *others]
            wanted = list(known if columns is None else columns)
            unknown = [name for name in wanted if name not in known]
            if unknown:
                raise SampleSetError(where, f"no column {unknown[0]!r}", f"of {', '.join(known)}")
            read = [*wanted, *(["sample_index"] if "sample_index" not in wanted else [])]
            for batch in parquet.iter_batches(ROWS_PER_GROUP, columns=read, use_threads=False):
                batch.validate(full=True)  # texts that are none, places outside of the column
                _check_indices(where, batch, expected)
                if "image" in wanted:
                    sizes = wrong_sizes(batch, header.image_size)
                    if sizes:
                        raise mixed_sizes(where, sizes, batch.num_rows, header.image_size)
                expected += batch.num_rows
                yield batch.select(wanted)
    except (pa.ArrowException, *UNREADABLE) as problem:
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise SampleSetError(
            where, f"is damaged ({reason})", "", "remove it and run the job again"
        ) from problem
    if expected != entry.first_index + entry.num_rows:
        raise SampleSetError(
            where, f"{expected - entry.first_index:,} samples", f"{entry.num_rows:,}"
        )


def mixed_sizes(
    where: str, sizes: Mapping[tuple[int, int], int], num_rows: int, image_size: int
) -> SampleSetError:
    """Make the error for images of another size than the set's."""
    listed = ", ".join(f"{count:,} of {h}x{w}" for (h, w), count in sorted(sizes.items()))
    return SampleSetError(
        where, f"{listed} among {num_rows:,} images", f"{image_size}x{image_size} throughout"
    )


def _check_indices(where: str, batch: pa.RecordBatch, expected: int) -> None:
    indices = batch.column("sample_index").to_numpy()
    wrong = np.flatnonzero(indices != np.arange(expected, expected + len(indices)))
    if len(wrong):
        raise SampleSetError(
            where,
            f"sample {indices[wrong[0]]:,} stands where {expected + wrong[0]:,} belongs "
            f"({len(wrong):,} of {len(indices):,} rows out of place)",
            "each sample once, in order",
            "the set is duplicated or mixed with another; generate it again",
        )
