from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rdm_batch.datasets.parquet import ImageParquet
from rdm_batch.datasets.source import ImageSource
from rdm_batch.errors import ImageError

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), shade).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, shades: range, **columns: list[str]) -> None:
    images = pa.array([{"bytes": png(shade), "path": None} for shade in shades], IMAGE_TYPE)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=3)


def test_rows_are_served_over_files_and_row_groups(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", range(10, 14))
    write(tmp_path / "a.parquet", range(10))
    write(tmp_path / "deep/c.parquet", range(14, 15))
    source = ImageParquet(tmp_path)
    assert isinstance(source, ImageSource)
    assert [int(item.image[0, 0, 0]) for item in source] == list(range(15))
    assert source[13].item_id == "b.parquet#3"
    assert source[14].item_id == "deep/c.parquet#0"
    assert len({item.item_id for item in source}) == 15
    assert int(source[2].image[0, 0, 0]) == 2


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", range(2))
    assert ImageParquet(tmp_path / "x.parquet")[1].item_id == "x.parquet#1"


def test_captions_come_from_the_usual_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", range(2), text=["one", "two"], other=["x", "y"])
    write(tmp_path / "b.parquet", range(2), caption=["", "first"], prompt=["third", "other"])
    source = ImageParquet(tmp_path)
    assert [item.caption for item in source] == ["one", "two", "third", "first"]


def test_plain_binary_columns_are_read_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"png": pa.array([png(7)])}), tmp_path / "a.parquet")
    source = ImageParquet(tmp_path, column="png")
    np.testing.assert_array_equal(source[0].image, np.full((4, 4, 3), 7))
    assert source[0].caption is None


def test_tables_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no parquet files"):
        ImageParquet(tmp_path)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": ["a.png"], "x": [1]}), path)
    with pytest.raises(ImageError, match="columns image, x; needed a column 'image'"):
        ImageParquet(path)
    paths_only = pa.array([{"path": "a.png"}], pa.struct([("path", pa.string())]))
    pq.write_table(pa.table({"image": paths_only}), path)
    with pytest.raises(ImageError, match="columns image"):
        ImageParquet(path)


def test_truncated_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, range(3))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ImageError, match=r"a\.parquet: unreadable"):
        ImageParquet(path)


def test_rows_without_bytes_and_damaged_images_are_named(tmp_path: Path) -> None:
    images = pa.array([{"bytes": None, "path": "/etc/passwd"}, {"bytes": b"x", "path": None}])
    pq.write_table(pa.table({"image": images.cast(IMAGE_TYPE)}), tmp_path / "a.parquet")
    source = ImageParquet(tmp_path)
    with pytest.raises(ImageError, match=r"a\.parquet#0: no image bytes"):
        source[0]
    with pytest.raises(ImageError, match=r"a\.parquet#1: not a readable image"):
        source[1]


@pytest.mark.parametrize("index", [-1, 3])
def test_rows_outside_are_refused(tmp_path: Path, index: int) -> None:
    write(tmp_path / "a.parquet", range(3))
    with pytest.raises(IndexError):
        ImageParquet(tmp_path)[index]
