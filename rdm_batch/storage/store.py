"""What every store can do, and the store that is a local folder."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from rdm_batch.errors import RdmBatchError, SampleSetError
from rdm_batch.files import (
    PARTIAL_SUFFIX,
    Damage,
    RecordedFile,
    find_damage,
    open_regular,
    path_aside,
    stream_sha256,
    written_aside,
)

PROBE_KEY = ".write-check"
_COPY_BYTES = 4 << 20


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object: its key below the store's root, size in bytes, version tag."""

    key: str
    num_bytes: int
    tag: str


class Store(ABC):
    """Read and write objects below one root.

    Keys are relative, with forward slashes; the empty key is the root itself, where that is
    an object. A write is complete or has not happened: no
    reader ever sees half an object under its final key. Objects hold no open connection,
    so they pickle, fork and are used from several threads.

    Args:
        uri: The root, as given by the user.
        error: Class to raise for expected failures.
    """

    def __init__(self, uri: str, error: type[RdmBatchError] = SampleSetError) -> None:
        self.uri = uri
        self.error = error

    def child_uri(self, key: str) -> str:
        """Name an object of this store for messages and manifests."""
        return f"{self.uri.rstrip('/')}/{key}" if key else self.uri

    @abstractmethod
    def read_if_there(self, key: str) -> bytes | None:
        """Read a whole object. None when it does not exist."""

    @abstractmethod
    def open_recorded(self, file: RecordedFile) -> io.BufferedIOBase:
        """Open an object whose size and digest are known, for reading nothing else.

        Raises:
            RdmBatchError: As ``error``, when it is missing, or is not what was recorded.
        """

    @abstractmethod
    def write_bytes(self, key: str, data: bytes) -> None:
        """Write a whole object, replacing what was there, at once or not at all."""

    @abstractmethod
    def write_bytes_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object unless it exists.

        Not a lock: some stores ignore or race conditional writes, and a retried request
        of our own may find what its first try wrote.

        Returns:
            False when the object existed and was left alone.
        """

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo | None:
        """Look an object up. None when it does not exist."""

    @abstractmethod
    def list_objects(self, folder: str = "") -> list[ObjectInfo]:
        """List every object below a folder (all levels), sorted by key, never cached."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object. One that does not exist is no failure."""

    @abstractmethod
    def open_read(self, key: str) -> io.BufferedReader:
        """Open an object for seeking and reading ranges of it."""

    @abstractmethod
    def open_write(self, key: str) -> AbstractContextManager[io.BufferedIOBase]:
        """Open an object for streaming into it; it appears when the block ends well."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise ``error`` with the reason when nothing can be written here."""

    def read_bytes(self, key: str) -> bytes:
        """Read a whole object; a missing one raises ``error``."""
        data = self.read_if_there(key)
        if data is None:
            raise self.missing(key)
        return data

    def exists(self, key: str) -> bool:
        """Tell whether an object exists."""
        return self.stat(key) is not None

    def size(self, key: str) -> int:
        """Size of an object in bytes; a missing one raises ``error``."""
        info = self.stat(key)
        if info is None:
            raise self.missing(key)
        return info.num_bytes

    def sha256(self, key: str) -> str:
        """Digest an object without holding it in memory; a missing one raises ``error``."""
        with self.open_read(key) as file:
            return stream_sha256(file)

    def find_damage(
        self,
        files: Iterable[RecordedFile],
        digests: bool = False,
        advance: Callable[[int], object] | None = None,
    ) -> list[Damage]:
        """List what is wrong with objects of this store, one entry per damaged one.

        Args:
            files: What their manifest says of them.
            digests: Read them and compare their content as well, not their sizes alone.
            advance: Told the recorded size of every object that was checked.
        """
        listed = {item.key: item.num_bytes for item in self.list_objects()}

        def size_of(key: str) -> int | None:
            if key in listed:
                return listed[key]
            info = self.stat(key)  # no listing follows a folder that is a link
            return None if info is None else info.num_bytes

        return find_damage(files, size_of, self.sha256 if digests else None, advance)

    def missing(self, key: str) -> RdmBatchError:
        """Make the error for an object that is not there."""
        return self.error(self.child_uri(key), "does not exist")


class LocalStore(Store):
    """A folder of the local file system.

    Args:
        uri: The root, as given by the user.
        root: The folder itself; it need not exist before the first write.
        read_only: Refuse every write (files shipped with the package).
        error: Class to raise for expected failures.
    """

    def __init__(
        self,
        uri: str,
        root: Path,
        read_only: bool = False,
        error: type[RdmBatchError] = SampleSetError,
    ) -> None:
        super().__init__(uri, error)
        self.root = root
        self.read_only = read_only

    @override
    def read_if_there(self, key: str) -> bytes | None:
        with self._explained(key):
            try:
                with open_regular(self._path(key)) as file:
                    return file.read()
            except (FileNotFoundError, NotADirectoryError):
                return None

    @override
    def open_recorded(self, file: RecordedFile) -> io.BufferedIOBase:
        with self._explained(file.path):
            opened = open_regular(self._path(file.path))
            try:
                damage = find_damage(
                    [file],
                    lambda _: os.fstat(opened.fileno()).st_size,
                    lambda _: stream_sha256(opened),
                )
                if damage:
                    raise self.error(self.child_uri(file.path), damage[0].found, damage[0].needed)
                opened.seek(0)
            except BaseException:
                opened.close()
                raise
            return opened

    @override
    def write_bytes(self, key: str, data: bytes) -> None:
        with self.open_write(key) as file:
            file.write(data)

    @override
    def write_bytes_if_absent(self, key: str, data: bytes) -> bool:
        self._refuse_when_read_only()
        with self._explained(key), path_aside(self._path(key)) as aside:
            with aside.open("xb") as file:
                file.write(data)
                _flush_to_disk(file)
            try:
                os.link(aside, self._path(key))
            except FileExistsError:
                return False
            except OSError:
                # No hard links here (some network and FAT mounts): a rename is complete
                # or absent too, and only cannot tell who of two writers was first.
                if self._path(key).exists():
                    return False
                aside.replace(self._path(key))
            _flush_folder(self._path(key).parent)
            return True

    @override
    def stat(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with self._explained(key):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not path.is_file():
            return None
        return ObjectInfo(key, status.st_size, f"{status.st_mtime_ns}")

    @override
    def list_objects(self, folder: str = "") -> list[ObjectInfo]:
        found = []
        with self._explained(folder):
            for parent, _, names in os.walk(self._path(folder)):
                for name in names:
                    if name.endswith(PARTIAL_SUFFIX):
                        continue
                    info = self.stat((Path(parent) / name).relative_to(self.root).as_posix())
                    if info is not None:
                        found.append(info)
        return sorted(found, key=lambda info: info.key)

    @override
    def delete(self, key: str) -> None:
        self._refuse_when_read_only()
        with self._explained(key):
            self._path(key).unlink(missing_ok=True)

    @override
    def open_read(self, key: str) -> io.BufferedReader:
        with self._explained(key):
            return self._path(key).open("rb")

    @override
    @contextmanager
    def open_write(self, key: str) -> Iterator[io.BufferedIOBase]:
        self._refuse_when_read_only()
        with self._explained(key):
            with written_aside(self._path(key)) as aside, aside.open("xb") as file:
                yield file
                _flush_to_disk(file)
            _flush_folder(self._path(key).parent)

    @override
    def check_writable(self) -> None:
        self._refuse_when_read_only()
        existing = next(p for p in (self.root, *self.root.parents) if p.exists())
        if not existing.is_dir():
            raise self.error(self.uri, f"{existing} is a file", "a folder to write into")
        probe = existing / f"{PROBE_KEY}-{uuid.uuid4().hex}"
        try:
            with self._explained(""):
                probe.write_bytes(b"\0")
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / key

    def _refuse_when_read_only(self) -> None:
        if self.read_only:
            raise self.error(self.uri, "is part of the installed package and cannot be changed")

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn the failures of a file system into the one error the caller asked for."""
        try:
            yield
        except OSError as problem:
            raise self._translate(key, problem) from problem

    def _translate(self, key: str, problem: OSError) -> RdmBatchError:
        where = self.child_uri(key)
        match problem.errno:
            case errno.ENOENT:
                return self.missing(key)
            case errno.EACCES | errno.EPERM:
                return self.error(where, "access denied", action="check its owner and mode")
            case errno.EROFS:
                return self.error(where, "is on a read-only file system")
            case errno.ENOSPC | errno.EDQUOT:
                existing = next(p for p in (self.root, *self.root.parents) if p.exists())
                free = shutil.disk_usage(existing).free
                return self.error(where, f"no space left ({free:,} bytes free)")
            case errno.EISDIR:
                return self.error(where, "is a folder", "a file")
            case errno.ENOTDIR | errno.EEXIST:
                return self.error(where, "a file stands where a folder is needed")
            case _:
                return self.error(where, problem.strerror or type(problem).__name__)


@contextmanager
def stored_file(store: Store, key: str) -> Iterator[Path]:
    """Give a local path to write to; what is there at the end becomes an object.

    For writers that write files alone.

    Args:
        store: Where the object goes.
        key: Its key. It appears complete, or not at all when the block fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object"
        try:
            yield path
        except OSError as problem:
            # A write that fails names no file, and this one lies where nobody would look.
            if problem.filename is None:
                problem.filename = f"{path} (on its way to {key})"
            raise
        with path.open("rb") as source, store.open_write(key) as target:
            shutil.copyfileobj(source, target, _COPY_BYTES)


def _flush_to_disk(file: io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # Makes the new name itself survive a power cut, not the content alone.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
