from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.npz_file import open_npz
from rdm_batch.retrieval.npz_parts import read_part


def _member(descr: str = "<i8", shape: str = "(3,)", data: bytes = bytes(24)) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def _zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _refusal(path: Path, name: str = "a") -> str:
    with pytest.raises(FormatError) as caught, open_npz(path) as arrays:
        arrays.read(name)
    return str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_reads_them(tmp_path: Path, save) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(3, 4)),
        "b": np.asfortranarray(rng.normal(size=(2, 3, 4)).astype(np.float16)),
        "c": np.arange(5, dtype=">i4"),
        "d": np.array("text"),
        "e": np.zeros((0, 3), np.uint8),
        "f": np.float32(3),
    }
    save(tmp_path / "a.npz", **arrays)
    with open_npz(tmp_path / "a.npz") as file:
        assert file.names == list(arrays)
        for name, array in arrays.items():
            found = file.read(name)
            assert found.dtype == np.asarray(array).dtype
            np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("member", "what"),
    [
        (_member("|O"), "no plain number"),
        (_member("<c16"), "no plain number"),
        (_member("|V8"), "no plain number"),
        (_member("<i8", "(4,)"), "32 bytes, but 24 are there"),
        (_member("<i8", "(137438953472,)"), "1,099,511,627,776 bytes, but 24 are there"),
        (_member("<i8", "(-3,)"), "no array of numbers"),
        (_member("<i8", "(3.0,)"), "no array of numbers"),
        (_member("<i8", "(" + "1, " * 60 + ")"), "60 dimensions"),
        (_member("<i8", "__import__('os')"), "no array of numbers"),
        (_member("<U99999999999"), "no array of numbers|characters"),
        (b"\x93NUMPY\x01\x00\xff\xff", "header of 65,535 bytes"),
        (b"\x93NUMPY\x09\x00", "no array of numpy"),
        (b"", "no array of numpy"),
    ],
)
def test_arrays_that_cannot_be_are_refused(tmp_path: Path, member: bytes, what: str) -> None:
    import re

    assert re.search(what, _refusal(_zip(tmp_path / "a.npz", {"a.npy": member})))


def test_a_size_beyond_what_bytes_can_unpack_to_is_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.npz", {"a.npy": _member()}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    for place, mark in ((22, b"PK\x03\x04"), (24, b"PK\x01\x02")):
        struct.pack_into("<I", data, data.index(mark) + place, 0xFFFFFF00)
    path.write_bytes(data)
    assert "claims 4,294,967,040 bytes but has" in _refusal(path)


def test_damaged_deflate_data_and_flipped_bytes_are_noticed(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 9, 2_000).astype(np.int64)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", a=content)
        data = bytearray((tmp_path / "a.npz").read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "a.npz").write_bytes(data)
        assert "damaged" in _refusal(tmp_path / "a.npz") or "ends early" in _refusal(
            tmp_path / "a.npz"
        )


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_of_compression_are_refused(tmp_path: Path, method: int) -> None:
    assert "compressed by method" in _refusal(
        _zip(tmp_path / "a.npz", {"a.npy": _member()}, method)
    )


def test_a_directory_that_claims_more_than_real_ones_have_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    size = 1 << 30
    with path.open("wb") as file:  # sparse: a gigabyte of nothing where the directory should be
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0))
    assert "its directory claims" in _refusal(path)


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "empty.npz").touch()
    found = {
        name: _refusal(tmp_path / name)
        for name in ("a.npz", "folder.npz", "empty.npz", "none.npz", "n" * 300 + ".npz")
    }
    assert "a single array (.npy)" in found["a.npz"]
    assert "is a folder" in found["folder.npz"]
    assert "no such file" in found["none.npz"]
    assert "name too long" in found["n" * 300 + ".npz"]


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"img_id": np.array(["x", "y", "z"])}, "img_id <U1 of shape"),
        ({"img_id": np.array([1.5, 2, 3])}, "img_id float64"),
        ({"img_id": np.array([1, 2, 2**63], np.uint64)}, "img_id holds 9,223,372,036,854,775,808"),
        ({"patch_coords": np.full((3, 4), 2**31)}, "patch_coords holds 2,147,483,648"),
        ({"patch_coords": np.full((3, 4), 1.5)}, "patch_coords float64"),
    ],
)
def test_ids_and_coordinates_are_never_cut_to_fit(
    tmp_path: Path, arrays: dict[str, np.ndarray], what: str
) -> None:
    part = {"embedding": np.ones((3, 8), np.float16), "img_id": np.arange(3)}
    np.savez(tmp_path / "a.npz", **(part | arrays))
    with pytest.raises(DatabaseError, match=what):
        read_part(tmp_path / "a.npz")
