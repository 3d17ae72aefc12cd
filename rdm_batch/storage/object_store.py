"""Open stores by URI and bring what they hold to local paths.

The client of S3 is imported where it is used: a local job starts a second sooner without.
"""

from __future__ import annotations

import stat
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from rdm_batch.errors import RdmBatchError, SampleSetError
from rdm_batch.files import RecordedFile
from rdm_batch.storage.store import LocalStore, ObjectInfo, Store
from rdm_batch.storage.uri import Location, parse_uri, redact

if TYPE_CHECKING:
    from rdm_batch.storage.s3 import S3Store

__all__ = ["ObjectInfo", "Store", "check_writable", "local_path", "open_store", "redact"]


def open_store(uri: str, error: type[RdmBatchError] = SampleSetError) -> Store:
    """Open the store below a URI; nothing is read or written yet.

    Args:
        uri: Local path, ``file:///...``, ``s3://bucket/prefix``, or ``package://folder``
            (files shipped with this package, read-only).
        error: Class to raise for expected failures, now and in later calls.

    Raises:
        RdmBatchError: As ``error``, when the URI is none of these or carries credentials.
    """
    location = parse_uri(uri, error)
    if location.scheme == "s3":
        return _open_s3(uri, location, error)
    return LocalStore(uri, _local_root(location), location.scheme == "package", error)


def check_writable(uri: str, error: type[RdmBatchError] = SampleSetError) -> None:
    """Try to write below a URI and leave nothing behind.

    Args:
        uri: Location that will be written to; it need not exist yet.
        error: Class to raise.

    Raises:
        RdmBatchError: As ``error``, with the one reason: missing bucket, wrong or missing
            credentials, no permission, endpoint out of reach, read-only, no space.
    """
    open_store(uri, error).check_writable()


def local_path(
    uri: str,
    cache_dir: str | Path | None = None,
    error: type[RdmBatchError] = SampleSetError,
    recorded: RecordedFile | None = None,
) -> Path:
    """Give a local path with the content of a URI, a file or a whole folder.

    What is local already is returned as it is. What is remote is downloaded once into a
    cache keyed by its content tags, checked, complete or not at all, also when several
    processes ask at the same time. Nobody may write into what is returned.

    Args:
        uri: Local path, ``file:///...``, ``s3://...`` or ``package://...``.
        cache_dir: Where downloads are kept. None means ``RDM_BATCH_CACHE``, else
            ``XDG_CACHE_HOME/rdm_batch``, else ``~/.cache/rdm_batch``.
        error: Class to raise.
        recorded: What a manifest says of the object; only that enters the cache. What is
            local is not compared here.

    Raises:
        RdmBatchError: As ``error``, when nothing is there, it cannot be read, or it is not
            what was recorded.
    """
    location = parse_uri(uri, error)
    if location.scheme == "s3":
        from rdm_batch.storage.download import cached_download

        return cached_download(_open_s3(uri, location, error), cache_dir, recorded)
    path = _local_root(location)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise open_store(uri, error).missing("") from None
    except OSError as problem:
        raise error(str(path), f"cannot be read ({problem.strerror})") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        # Opening a FIFO would wait for its writer, a device may never end.
        raise error(str(path), "is neither a file nor a folder", "a file or a folder")
    return path


def _open_s3(uri: str, location: Location, error: type[RdmBatchError]) -> S3Store:
    from rdm_batch.storage.s3 import S3Store

    return S3Store(uri, location.bucket, location.path, error)


def _local_root(location: Location) -> Path:
    if location.scheme == "package":
        return Path(str(files("rdm_batch"))) / "assets" / location.path
    return Path(location.path)
