"""One array in a ``.npy`` file, read without trust and in pieces."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from jaxtyping import Shaped

from rdm_batch.files import open_regular
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.npz_file import ArrayHeader, read_array_header

MAX_READ_BYTES: Final = 8 << 30
"""The most that is read at once."""
MAX_COLUMNS: Final = 65_536
"""Columns of a table that is stored column by column: each is a read of its own."""


class NpyFile:
    """Read rows of an array in a ``.npy`` file.

    Nothing stays open: every call opens the file anew, so that it pickles and threads share it.

    Args:
        path: The file.

    Attributes:
        header: What the array says of itself; its bytes are there, no fewer and no more.

    Raises:
        FormatError: There is no such file, it is something else, or it is cut short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as file:
            self.header: ArrayHeader = read_array_header(file, "it")
            size = os.fstat(file.fileno()).st_size
        needed = math.prod(self.header.shape) * self.header.dtype.itemsize
        there = size - self.header.num_bytes
        if needed != there:
            raise FormatError(f"is {self.header}, {needed:,} bytes, but {there:,} are there")
        if self.header.dtype.kind == "U":
            raise FormatError(f"is {self.header}, which holds no numbers")

    def rows(self, start: int = 0, stop: int | None = None) -> Shaped[np.ndarray, "..."]:
        """Read a range of the first axis, all of it without bounds.

        Args:
            start: First row.
            stop: The row behind the last one; None for the end.

        Raises:
            FormatError: The array is stored column by column and has more than two axes or too
                many columns; or it has no rows, the range is larger than ``MAX_READ_BYTES``, or
                the file has changed.
        """
        header = self.header
        if not header.shape:
            raise FormatError("is a single number, not rows")
        if header.fortran_order and len(header.shape) > 2:
            raise FormatError("is stored column by column (save a C-ordered array)")
        stop = header.shape[0] if stop is None else min(stop, header.shape[0])
        count = max(0, stop - start)
        width = math.prod(header.shape[1:]) * header.dtype.itemsize
        if count * width > MAX_READ_BYTES:
            raise FormatError(f"is {header}, more than the {MAX_READ_BYTES:,} bytes read at once")
        if header.fortran_order and len(header.shape) == 2:
            return self._by_columns(start, count)
        with self._open() as file:
            file.seek(header.num_bytes + start * width)
            data = file.read(count * width)
        if len(data) != count * width:
            raise FormatError("ends early")
        rows = np.frombuffer(data, header.dtype).reshape(count, *header.shape[1:])
        return rows.astype(header.dtype.newbyteorder("="), copy=False)

    def _by_columns(self, start: int, count: int) -> Shaped[np.ndarray, "rows columns"]:
        """Read rows of a table that is stored column by column: a piece of each column."""
        header = self.header
        (length, columns), item = header.shape, header.dtype.itemsize
        if columns > MAX_COLUMNS:
            raise FormatError(
                f"is {header}, stored column by column, of which {MAX_COLUMNS:,} are read (save a "
                "C-ordered array)"
            )
        rows = np.empty((count, columns), header.dtype.newbyteorder("="))
        with self._open() as file:
            for column in range(columns):
                file.seek(header.num_bytes + (column * length + start) * item)
                data = file.read(count * item)
                if len(data) != count * item:
                    raise FormatError("ends early")
                rows[:, column] = np.frombuffer(data, header.dtype)
        return rows

    def _open(self) -> BinaryIO:
        try:
            return open_regular(self._path)
        except FileNotFoundError:
            raise FormatError("there is no such file") from None
        except OSError as problem:
            raise FormatError(problem.strerror or type(problem).__name__) from None
