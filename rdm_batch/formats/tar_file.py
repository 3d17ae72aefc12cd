"""Files inside ``.tar`` archives, found without trust: only plain files, and no link is followed.

The archive is scanned header by header (POSIX.1-1988 ustar, with the long names of GNU and pax).
Nothing is unpacked: what is told is where the bytes of each file lie in the archive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from rdm_batch.files import open_regular
from rdm_batch.formats.format_error import FormatError

MAX_MEMBERS: Final = 5_000_000
"""Members of an archive, links and folders included."""
_BLOCK: Final = 512
_MAX_NAME_BYTES: Final = 65_536
_REGULAR: Final = (b"0", b"\0", b"7")
_LONG_NAME: Final = b"L"
_PAX: Final = b"x"


@dataclass(frozen=True)
class TarMember:
    """Locate a file of an archive.

    Attributes:
        name: Its path, as the archive has it; never used as one here.
        offset: Byte of the archive at which it begins.
        num_bytes: Its size.
    """

    name: str
    offset: int
    num_bytes: int


def list_tar(path: Path) -> Iterator[TarMember]:
    """List the plain files of an archive in their order; links, folders and devices are left out.

    Args:
        path: An uncompressed archive.

    Raises:
        FormatError: It is no such archive, is cut short or damaged, or has too many members.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise FormatError("there is no such file") from None
    except OSError as problem:
        raise FormatError(problem.strerror or type(problem).__name__) from None
    with file:
        yield from _members(file, os.fstat(file.fileno()).st_size)


def _members(file: BinaryIO, size: int) -> Iterator[TarMember]:
    position, long_name, pax_size = 0, None, None
    for _ in range(MAX_MEMBERS):
        file.seek(position)
        header = file.read(_BLOCK)
        if len(header) < _BLOCK:
            raise FormatError("ends early, without the empty block that ends an archive")
        if not any(header):
            return
        _check_sum(header, position)
        kind = header[156:157]
        num_bytes = _number(header[124:136]) if pax_size is None else pax_size
        start = position + _BLOCK
        position = start + -(-num_bytes // _BLOCK) * _BLOCK
        if start + num_bytes > size:
            raise FormatError(f"ends early: {num_bytes:,} bytes at {start:,} of {size:,}")
        if kind in (_LONG_NAME, _PAX):
            if num_bytes > _MAX_NAME_BYTES:
                raise FormatError(f"has a name of {num_bytes:,} bytes")
            data = file.read(num_bytes)
            if kind == _LONG_NAME:
                long_name = _text(data)
            else:
                named, pax_size = _pax(data)
                long_name = named or long_name
            continue
        name = long_name or _short_name(header)
        long_name, pax_size = None, None
        if kind in _REGULAR and not name.endswith("/"):
            yield TarMember(name, start, num_bytes)
    raise FormatError(f"has more than {MAX_MEMBERS:,} members")


def _check_sum(header: bytes, position: int) -> None:
    """Compare the sum of a header, with its own place taken as spaces."""
    found = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if found != _number(header[148:156]):
        raise FormatError(f"is no .tar archive, or is damaged at byte {position:,}")


def _number(digits: bytes) -> int:
    """Read an octal number, or one in base 256 as GNU writes those that are larger."""
    if digits[0] & 0x80:
        value = int.from_bytes(bytes([digits[0] & 0x7F]) + digits[1:], "big")
        if digits[0] & 0x40 or value > 1 << 62:
            raise FormatError("states a size that is none")
        return value
    text = digits.split(b"\0", 1)[0].strip()
    if text.strip(b"01234567"):
        raise FormatError("states a size that is none")
    return int(text or b"0", 8)


def _pax(data: bytes) -> tuple[str | None, int | None]:
    """Read the records ``LENGTH NAME=VALUE`` of a pax header; of these, path and size."""
    path, size, place = None, None, 0
    while place < len(data):
        length, space, _ = data[place : place + 12].partition(b" ")
        if not space or not length.isdigit() or int(length) <= len(length) + 1:
            raise FormatError("has a damaged pax header")
        record = data[place + len(length) + 1 : place + int(length)].rstrip(b"\n")
        key, _, value = record.partition(b"=")
        if key == b"path":
            path = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise FormatError("has a damaged pax header")
            size = int(value)
        elif key.startswith(b"GNU.sparse"):
            raise FormatError("holds sparse files")
        place += int(length)
    return path, size


def _short_name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:262] == b"ustar" else name


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")
