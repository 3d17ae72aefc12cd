from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.npy_file import NpyFile

ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "u1", ">i8"])
def test_rows_are_read_in_pieces_whatever_their_type(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", ROWS.astype(dtype))
    file = NpyFile(tmp_path / "a.npy")
    assert file.header.shape == (6, 4)
    np.testing.assert_array_equal(file.rows(), ROWS)
    np.testing.assert_array_equal(file.rows(2, 5), ROWS[2:5])
    assert file.rows(4, 99).shape == (2, 4)
    assert file.rows(9).shape == (0, 4)
    assert file.rows().dtype.isnative


def test_versions_of_the_format_are_read(tmp_path: Path) -> None:
    for version in ((1, 0), (2, 0), (3, 0)):
        with (tmp_path / "a.npy").open("wb") as stream:
            np.lib.format.write_array(stream, ROWS, version=version)
        np.testing.assert_array_equal(NpyFile(tmp_path / "a.npy").rows(), ROWS)


@pytest.mark.parametrize("cut", [0, 5, 9, 60, 140])
def test_a_half_written_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.npy"
    np.save(path, ROWS)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FormatError):
        NpyFile(path)


def test_more_bytes_than_the_header_says_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, ROWS)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(FormatError, match=r"96 bytes, but 97 are there"):
        NpyFile(path)


def test_objects_are_refused_and_nothing_is_run(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="no plain number"):
        NpyFile(path)


def test_texts_and_more_axes_columns_first_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(["ab"]))
    with pytest.raises(FormatError, match="holds no numbers"):
        NpyFile(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.asfortranarray(np.zeros((2, 3, 4))))
    with pytest.raises(FormatError, match="column by column"):
        NpyFile(tmp_path / "b.npy").rows()


def test_a_table_stored_column_by_column_gives_its_rows(tmp_path: Path) -> None:
    rows = np.arange(35, dtype=">f4").reshape(7, 5)
    np.save(tmp_path / "a.npy", np.asfortranarray(rows))
    for start, stop in ((0, 7), (2, 5), (6, 9), (3, 3)):
        found = NpyFile(tmp_path / "a.npy").rows(start, stop)
        np.testing.assert_array_equal(found, rows[start:stop])
        assert found.dtype == np.float32
    np.save(tmp_path / "wide.npy", np.asfortranarray(np.zeros((2, 65_537), np.uint8)))
    with pytest.raises(FormatError, match="column by column, of which 65,536 are read"):
        NpyFile(tmp_path / "wide.npy").rows()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(FormatError, match="is a FIFO"):
        NpyFile(tmp_path / "a.npy")
    with pytest.raises(FormatError, match="no such file"):
        NpyFile(tmp_path / "b.npy")
