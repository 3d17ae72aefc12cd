"""Arrays of ``.npz`` files, read without trust.

An array's header is text that numpy would evaluate; here it is matched, its type is looked up
in a list of plain numbers, and its shape must be that of the bytes that are there, before
memory is asked for.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final

import numpy as np

from rdm_batch.files import open_regular
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.zip_files import find_member, format_errors, open_zip, stored_position

MAX_ARRAY_BYTES: Final = 64 << 30
"""The largest array that is read whole: 60 million embeddings of 512 numbers in float16."""
_MAGIC: Final = b"\x93NUMPY"
_MAX_HEADER_BYTES: Final = 4_096
_MAX_DIMENSIONS: Final = 8
_READ_BYTES: Final = 1 << 20
_NUMBERS: Final = {
    f"{kind}{width}"
    for kind, widths in {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}.items()
    for width in widths
}
_DESCR: Final = re.compile(r"'descr': *'([<>|=]?)([a-zA-Z])([0-9]{0,9})'")
_ORDER: Final = re.compile(r"'fortran_order': *(True|False)")
# Python 2 wrote numbers with an L.
_SHAPE: Final = re.compile(r"'shape': *\(((?:[0-9]{1,18}L?, *)*(?:[0-9]{1,18}L?)?)\)")


@dataclass(frozen=True)
class ArrayHeader:
    """Describe an array whose bytes are there.

    Attributes:
        shape: Its shape.
        dtype: A plain number, or text.
        fortran_order: Whether the first index runs fastest.
        num_bytes: Of the header itself.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


class NpzFile:
    """Read arrays of an open ``.npz`` file one by one.

    Attributes:
        names: Of the arrays.
    """

    def __init__(self, archive: zipfile.ZipFile, file: BinaryIO) -> None:
        self._archive = archive
        self._file = file
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        self.names = [name.removesuffix(".npy") for name in members]
        if len(set(members)) != len(members):
            raise FormatError("an array stands in it twice")

    def header(self, name: str) -> ArrayHeader:
        """Read what an array says of itself.

        Raises:
            FormatError: There is no such array, or what it says cannot be.
        """
        member = find_member(self._archive, f"{name}.npy")
        with format_errors(), self._archive.open(member) as stream:
            header = read_array_header(stream, name)
        needed = math.prod(header.shape) * header.dtype.itemsize
        if header.num_bytes + needed != member.file_size:
            raise FormatError(
                f"{name} is {header}, {needed:,} bytes, but "
                f"{member.file_size - header.num_bytes:,} are there"
            )
        return header

    def read(self, name: str, max_bytes: int = MAX_ARRAY_BYTES) -> np.ndarray:
        """Read an array whole; its CRC is compared.

        Raises:
            FormatError: There is no such array, it is damaged, or larger than ``max_bytes``.
        """
        header = self.header(name)
        num_bytes = math.prod(header.shape) * header.dtype.itemsize
        if num_bytes > max_bytes:
            raise FormatError(f"{name} has {num_bytes:,} bytes, more than {max_bytes:,}")
        try:
            buffer = np.empty(num_bytes, np.uint8)
        except MemoryError:
            raise FormatError(f"{name} needs {num_bytes:,} bytes of memory") from None
        with format_errors(), self._archive.open(f"{name}.npy") as stream:
            stream.read(header.num_bytes)
            position = 0
            while position < num_bytes:
                block = stream.read(min(_READ_BYTES, num_bytes - position))
                if not block:
                    raise FormatError(f"{name} ends early")
                buffer[position : position + len(block)] = np.frombuffer(block, np.uint8)
                position += len(block)
            stream.read(1)  # the CRC is compared at the end, also of what has no bytes
        array = buffer.view(header.dtype)
        if header.fortran_order:
            return array.reshape(header.shape[::-1]).T
        return array.reshape(header.shape)

    def stored_position(self, name: str) -> int | None:
        """Find the byte of the file at which an array's numbers begin; None when compressed.

        Raises:
            FormatError: They are not where the archive says.
        """
        member = find_member(self._archive, f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            return None
        size = self._file.seek(0, 2)
        return stored_position(self._file, member, size) + self.header(name).num_bytes


@contextmanager
def open_npz(path: Path) -> Iterator[NpzFile]:
    """Open a ``.npz`` file.

    Raises:
        FormatError: There is no such file, or it is something else.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise FormatError("there is no such file") from None
    except OSError as problem:
        raise FormatError(problem.strerror or type(problem).__name__) from None
    with file:
        if file.read(len(_MAGIC)) == _MAGIC:
            raise FormatError("is a single array (.npy), not an .npz archive of arrays")
        with open_zip(file) as archive:
            yield NpzFile(archive, file)


def read_array_header(stream: IO[bytes] | io.BufferedIOBase, name: str) -> ArrayHeader:
    """Read the header of an array, and leave the stream at its first number.

    Args:
        stream: At the array's begin.
        name: Names the array in messages.

    Raises:
        FormatError: It is no array of plain numbers. Whether its numbers are there is not looked
            at.
    """
    start = stream.read(8)
    if start[:6] != _MAGIC or start[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise FormatError(f"{name} is no array of numpy")
    layout = "<H" if start[6] == 1 else "<I"
    width = struct.calcsize(layout)
    size = stream.read(width)
    if len(size) < width:
        raise FormatError(f"{name} ends early")
    (length,) = struct.unpack(layout, size)
    if length > _MAX_HEADER_BYTES:
        raise FormatError(f"{name} has a header of {length:,} bytes")
    text = stream.read(length).decode("latin1")
    descr, order, shape = (pattern.findall(text) for pattern in (_DESCR, _ORDER, _SHAPE))
    if not len(text) == length or not len(descr) == len(order) == len(shape) == 1:
        raise FormatError(f"{name} is no array of numbers ({text.strip()[:200]})")
    [(byte_order, kind, itemsize)] = descr
    if f"{kind}{itemsize}" not in _NUMBERS and kind != "U":
        raise FormatError(f"{name} is of type {kind}{itemsize}, which is no plain number")
    sizes = tuple(int(size.strip().rstrip("L")) for size in shape[0].split(",") if size.strip())
    if len(sizes) > _MAX_DIMENSIONS:
        raise FormatError(f"{name} has {len(sizes)} dimensions")
    if kind == "U" and not 0 < int(itemsize or 0) < 1 << 28:
        raise FormatError(f"{name} is a text of {itemsize} characters")
    return ArrayHeader(
        sizes,
        np.dtype(f"{byte_order}{kind}{itemsize}"),
        order[0] == "True",
        len(start) + width + length,
    )
