"""Files as wholes: their digests, whether they are as recorded, and writing them aside."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from rdm_batch.errors import RdmBatchError

PARTIAL_SUFFIX = ".partial"
_READ_BYTES = 1 << 20
UNREADABLE: Final = (OSError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError)
"""What libraries raise, beside errors of their own, on bytes that only begin like what they are
called."""


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading that is one: a FIFO would wait for ever, a device never end.

    Raises:
        OSError: It cannot be opened, or is not a regular file; ``strerror`` says which.
    """
    # Not blocking: opening a FIFO would wait for its writer before it could be looked at.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"is {_kind(mode)}, not a file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_limited(path: Path, limit: int, error: type[RdmBatchError]) -> bytes:
    """Read a whole regular file that is small by its nature.

    Args:
        path: The file.
        limit: The most bytes it may have; no more than that is ever read.
        error: Class to raise.

    Raises:
        RdmBatchError: As ``error``, when there is no such file, it is not a regular one, it
            cannot be read, or it is larger.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise error(str(path), "there is no such file") from None
    except OSError as problem:
        raise error(str(path), problem.strerror or type(problem).__name__) from None
    if len(data) > limit:
        raise error(str(path), f"has more than {limit:,} bytes", f"at most {limit:,}")
    return data


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def file_sha256(path: Path) -> str:
    """Digest a file without holding it in memory."""
    with path.open("rb") as stream:
        return stream_sha256(stream)


def stream_sha256(stream: io.BufferedIOBase) -> str:
    """Digest what is left of a stream without holding it in memory."""
    digest = hashlib.sha256()
    while block := stream.read(_READ_BYTES):
        digest.update(block)
    return digest.hexdigest()


def canonical_digest(value: object, *, escape: bool = True) -> str:
    """Digest a JSON value independently of key order and spacing.

    Args:
        value: What ``json.dumps`` takes.
        escape: Whether other characters than ASCII are escaped first. Database manifests and
            build requests were always digested so, identities of sample sets never: what is
            stored keeps its digest.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=escape)
    return hashlib.sha256(text.encode()).hexdigest()


@runtime_checkable
class RecordedFile(Protocol):
    """A file as a manifest lists it."""

    @property
    def path(self) -> str:
        """Its path below the root of what the manifest describes."""

    @property
    def num_bytes(self) -> int:
        """Its size."""

    @property
    def sha256(self) -> str:
        """The digest of its content."""


@dataclass(frozen=True)
class Damage:
    """What is wrong with one stored file.

    Attributes:
        path: The file, below the root of what its manifest describes.
        found: What is wrong, as the end of a sentence that begins with the file.
        needed: What would have been right. Empty when ``found`` already says so.
    """

    path: str
    found: str
    needed: str = ""

    def __str__(self) -> str:
        return f"{self.path} {self.found}" + (f"; needed {self.needed}" if self.needed else "")


def find_damage(
    files: Iterable[RecordedFile],
    size_of: Callable[[str], int | None],
    digest_of: Callable[[str], str] | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[Damage]:
    """List what is wrong with stored files, one entry per damaged file.

    Args:
        files: What their manifest says of them.
        size_of: Tells the size of a path in bytes; None where there is no such file.
        digest_of: Tells the SHA-256 of a path's content; None checks sizes alone. A file of
            another size is not read.
        advance: Told the recorded size of every file that was checked.
    """
    problems = []
    for file in files:
        size, needed = size_of(file.path), f"{file.num_bytes:,} bytes"
        if size is None:
            problems.append(Damage(file.path, "is missing", needed))
        elif size != file.num_bytes:
            problems.append(Damage(file.path, f"has {size:,} bytes", needed))
        elif digest_of is not None and digest_of(file.path) != file.sha256:
            problems.append(Damage(file.path, "has other content than its digest says"))
        if advance is not None:
            advance(file.num_bytes)
    return problems


def find_damage_in(
    root: Path, files: Iterable[RecordedFile], digests: bool = False
) -> list[Damage]:
    """List what is wrong with the files of a local folder, by size and on request by digest."""

    def size_of(path: str) -> int | None:
        return (root / path).stat().st_size if (root / path).is_file() else None

    return find_damage(files, size_of, (lambda path: file_sha256(root / path)) if digests else None)


def check_target(path: Path, error: type[RdmBatchError]) -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold.

    Raises:
        RdmBatchError: As ``error``, when it is no file, or its folder is missing or not writable.
    """
    try:
        kind = path.stat().st_mode if path.exists() else stat.S_IFREG
        folder = path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)
    except OSError as problem:
        raise error(str(path), f"cannot be written ({problem.strerror})") from None
    if not stat.S_ISREG(kind):
        raise error(str(path), f"is {_kind(kind)}", "a file, or a new name")
    if not folder:
        raise error(str(path), "its folder is not there, or cannot be written into", "a folder")


def user_cache() -> Path:
    """Name the user's cache folder, by RDM_BATCH_CACHE, XDG_CACHE_HOME or the default."""
    named = os.environ.get("RDM_BATCH_CACHE")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "rdm_batch"


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold a lock between processes; the system frees it when its holder dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def locked(file: Path, error: RdmBatchError) -> Iterator[None]:
    """Keep other processes of this machine out of a block that names the same file.

    Args:
        file: A file or a folder that exists, or a file that may be made.
        error: Raised where another process is in such a block.
    """
    flags = os.O_RDONLY if file.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(file, flags | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def path_aside(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Give an unused path to write to; what still lies there at the end is removed.

    A process that is killed leaves it behind: hidden, under ``PARTIAL_SUFFIX``, in nobody's way.

    Args:
        path: The file it is for; its folder is made where it is missing.
        folder: Where the path lies, on the file system of ``path``. None means beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL_SUFFIX}"
    aside = (path.parent if folder is None else folder) / name
    try:
        yield aside
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def written_aside(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Give a path to write to; the file gets its own name when the block ends well.

    A reader never sees half a file, and a block that fails leaves what was there before.

    Args:
        path: The file's own name; its folder is made where it is missing.
        folder: Where it is written, on the same file system, when its own folder must never
            hold another file. None means beside it.
    """
    with path_aside(path, folder) as aside:
        try:
            yield aside
            aside.replace(path)
        except OSError as problem:
            # A write that fails names no file.
            if problem.filename is None:
                problem.filename = str(path)
            raise


def write_file(path: Path, data: bytes, error: type[RdmBatchError]) -> None:
    """Write a small file whole.

    Raises:
        RdmBatchError: As ``error``, when it cannot be written.
    """
    try:
        with written_aside(path) as aside:
            aside.write_bytes(data)
    except OSError as problem:
        raise error(str(path), f"cannot be written ({problem.strerror})") from problem
