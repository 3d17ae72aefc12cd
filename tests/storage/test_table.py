from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdm_batch.errors import SampleSetError
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.table import make_table, table_bytes, wrong_sizes
from tests.storage.sets import make_header, make_rows

BLACK = encode_png(np.zeros((4, 4, 3), np.uint8))


def test_the_same_rows_give_the_same_bytes() -> None:
    header = make_header(num_samples=250, shard_size=250)
    assert table_bytes(make_rows(header, 0)) == table_bytes(make_rows(header, 0))


def test_rows_put_together_from_pieces_give_the_same_bytes() -> None:
    table = make_rows(make_header(num_samples=25, shard_size=25), 0)
    pieces = [table.slice(start, 10) for start in (0, 10, 20)]
    assert table_bytes(pa.concat_tables(pieces)) == table_bytes(table)


def test_pictures_are_stored_as_they_are_and_left_out_of_statistics(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(table_bytes(make_rows(make_header(), 0)))
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert columns["image.bytes"].compression == "UNCOMPRESSED"
    assert columns["image.bytes"].statistics is None
    assert columns["sample_index"].compression == "ZSTD"
    assert columns["sample_index"].statistics.max == 9


def test_what_a_job_does_not_have_is_null() -> None:
    table = make_table(sample_indices=np.arange(2), images=[BLACK, BLACK], seed=1)
    for row in table.to_pylist():
        assert row["seed"] == 1
        assert all(row[name] is None for name in ("query_id", "neighbor_ids", "label", "eta"))


def test_a_context_without_neighbors_is_an_empty_list() -> None:
    table = make_table(
        sample_indices=np.arange(2),
        images=[BLACK, BLACK],
        seed=1,
        neighbor_ids=np.zeros((2, 0), np.int64),
        prompts=["a", "b"],
    )
    assert table.column("neighbor_ids").to_pylist() == [[], []]
    assert table.column("prompt").to_pylist() == ["a", "b"]


@pytest.mark.parametrize("column", ["image", "prompt"])
def test_columns_of_unequal_length_are_refused(column: str) -> None:
    short = {
        "image": {"images": [BLACK]},
        "prompt": {"prompts": ["a"]},
    }[column]
    arguments = {"images": [BLACK, BLACK], **short}
    with pytest.raises(SampleSetError, match=f"{column}: 1 values; needed 2"):
        make_table(sample_indices=np.arange(2), seed=1, **arguments)


def test_sizes_are_counted() -> None:
    wide = encode_png(np.zeros((4, 6, 3), np.uint8))
    table = make_table(sample_indices=np.arange(3), images=[wide, BLACK, wide], seed=1)
    assert wrong_sizes(table, 4) == {(4, 6): 2}
    assert wrong_sizes(table, 6) == {(4, 6): 2, (4, 4): 1}
