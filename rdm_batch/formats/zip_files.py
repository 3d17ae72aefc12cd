"""Zip archives as numpy and torch write them, with no more trust than they need.

Sizes in a zip file are claims. Its directory is read within a limit, members only stored or
deflated (the other methods cannot be unpacked in bounded steps), and no member is believed to
be larger than its bytes can unpack to.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, cast

from rdm_batch.formats.format_error import FormatError

MAX_DIRECTORY_BYTES: Final = 8 << 20
"""Room for some 80,000 members; the largest published checkpoint has 6,000."""
_MAX_DEFLATE_RATIO: Final = 1_040
"""Deflate makes at most 1,032 bytes of one."""
_LOCAL: Final = b"PK\x03\x04"
_LOCAL_BYTES: Final = 30


@contextmanager
def open_zip(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open an archive, and turn whatever its content makes ``zipfile`` raise into one error.

    Args:
        file: Opened; stays open.

    Raises:
        FormatError: This is no zip archive, or a damaged one.
    """
    with format_errors():
        limited = _LimitedFile(file)
        with zipfile.ZipFile(cast(BinaryIO, limited)) as archive:
            limited.limit = None
            yield archive


def find_member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Find a member whose sizes can be true.

    Raises:
        FormatError: There is none, or it cannot be what it claims.
    """
    try:
        member = archive.getinfo(name)
    except KeyError:
        raise FormatError(f"it has no member {name}") from None
    if member.flag_bits & 1:
        raise FormatError(f"{name} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FormatError(f"{name} is compressed by method {member.compress_type}")
    ratio = 1 if member.compress_type == zipfile.ZIP_STORED else _MAX_DEFLATE_RATIO
    if member.file_size > ratio * member.compress_size + 64 * (ratio > 1):
        raise FormatError(
            f"{name} claims {member.file_size:,} bytes but has {member.compress_size:,}"
        )
    return member


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Read a small member whole; its CRC is compared.

    Raises:
        FormatError: There is none, it is damaged, or it has more bytes than ``limit``.
    """
    member = find_member(archive, name)
    if member.file_size > limit:
        raise FormatError(f"{name} has {member.file_size:,} bytes, more than {limit:,}")
    with format_errors(), archive.open(member) as stream:
        data = stream.read()
    if len(data) != member.file_size:
        raise FormatError(f"{name} ends early")
    return data


def stored_position(file: BinaryIO, member: zipfile.ZipInfo, num_bytes: int) -> int:
    """Find the byte of the file at which the content of a member begins that is not compressed.

    Args:
        file: The open archive.
        member: Stored as it is.
        num_bytes: Size of the file.

    Raises:
        FormatError: It is not where the directory says, or does not end within the file.
    """
    with format_errors():
        file.seek(member.header_offset)
        header = file.read(_LOCAL_BYTES)
    if len(header) < _LOCAL_BYTES or header[:4] != _LOCAL:
        raise FormatError(f"no data where {member.filename} should start")
    # The local header repeats the name and has an extra field of its own length.
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start: int = member.header_offset + _LOCAL_BYTES + name_length + extra_length
    if start + member.file_size > num_bytes:
        raise FormatError(f"{member.filename} ends beyond the file")
    return start


@contextmanager
def format_errors() -> Iterator[None]:
    """Turn what ``zipfile`` and the unpacking raise on damage into one error.

    Raises:
        FormatError: Something was wrong with the archive.
    """
    try:
        yield
    except FormatError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as problem:
        raise FormatError(f"the archive is damaged: {problem}") from None
    # Positions and sizes beyond what can be, names in no encoding, versions of the future.
    except (ValueError, OverflowError, NotImplementedError, RuntimeError) as problem:
        raise FormatError(f"the archive is damaged or of an unknown kind: {problem}") from None
    except OSError as problem:
        raise FormatError(f"cannot be read: {problem.strerror or problem}") from None


class _LimitedFile:
    """Refuse reads larger than a directory can be, until the directory has been read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.limit: int | None = MAX_DIRECTORY_BYTES

    def read(self, size: int = -1) -> bytes:
        if self.limit is not None and size > self.limit:
            raise FormatError(f"its directory claims {size:,} bytes; no real one has as many")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True
