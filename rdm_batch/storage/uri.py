"""Where things are stored: a local path, an object in a bucket, a file of this package."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from rdm_batch.errors import RdmBatchError, SampleSetError
from rdm_batch.specs.base import carries_credentials

MAX_NAME_BYTES: Final = 255
"""Bytes of a file's name, as file systems have it."""
MAX_PATH_BYTES: Final = 3840
"""Bytes of a local path: Linux takes 4,096, and the names of files are put behind it."""

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://(.*)$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Location:
    """A parsed URI.

    Args:
        scheme: ``file``, ``s3`` or ``package``.
        bucket: Bucket name; empty unless ``scheme`` is ``s3``.
        path: Absolute path, key prefix without outer slashes, or path below the assets.
    """

    scheme: Literal["file", "s3", "package"]
    bucket: str
    path: str


def redact(uri: str) -> str:
    """Hide user names, passwords and query strings, so that a URI may be printed."""
    match = _SCHEME.match(uri)
    if match is None:
        return uri
    scheme, rest = match.groups()
    if carries_credentials(uri):
        # Up to the last @, for passwords may hold every character; nothing where there is none.
        _, at, after = rest.rpartition("@")
        rest = f"***{at}{after.partition('?')[0]}" if at else "***"
    elif scheme.lower() not in ("s3", "file"):
        rest = rest.partition("?")[0]
    return f"{scheme}://{rest}"


def server_name(endpoint: str | None) -> str:
    """Name a server by scheme, host and port alone, for messages.

    Args:
        endpoint: Its URL. None means AWS itself.
    """
    if endpoint is None:
        return "AWS S3"
    try:
        parts = urlsplit(endpoint)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "the endpoint"
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else "the endpoint"


def parse_uri(uri: str, error: type[RdmBatchError] = SampleSetError) -> Location:
    """Split a URI into scheme, bucket and path.

    Args:
        uri: A local path (``~`` and relative paths allowed), ``file:///...``,
            ``s3://bucket/prefix`` or ``package://folder/file``.
        error: Class to raise.

    Raises:
        RdmBatchError: As ``error``, when the URI is empty, has another scheme, carries
            credentials or lacks its bucket.
    """
    if not uri.strip() or "\0" in uri:
        raise error(repr(uri), "not a location", "a path, s3://bucket/prefix or package://...")
    match = _SCHEME.match(uri)
    if match is None:
        try:
            local = str(Path(uri).expanduser().absolute())
        except RuntimeError:
            raise error(uri, "names the home folder of nobody here", "a folder") from None
        return Location("file", "", _nameable(local, error))
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme == "s3":
        return _parse_s3(uri, rest, error)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise error(redact(uri), "names another machine", "file:///absolute/path")
        return Location("file", "", _nameable(unquote("/" + path), error))
    if scheme == "package":
        parts = rest.strip("/").split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise error(uri, "not a shipped file", "package://folder/file without ..")
        return Location("package", "", "/".join(parts))
    raise error(
        redact(uri),
        f"scheme {scheme}:// is not supported",
        "a local path, s3://bucket/prefix or package://...",
    )


def _nameable(path: str, error: type[RdmBatchError]) -> str:
    """Refuse a path that no file system takes, before anything is asked of one."""
    if "\0" in path:
        raise error(repr(path), "not a location", "a path")
    longest = max(len(os.fsencode(name)) for name in path.split("/"))
    if longest > MAX_NAME_BYTES:
        raise error(path, f"holds a name of {longest:,} bytes", f"at most {MAX_NAME_BYTES}")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        found = f"a path of {len(os.fsencode(path)):,} bytes"
        raise error(path, found, f"at most {MAX_PATH_BYTES:,}")
    return path


def _parse_s3(uri: str, rest: str, error: type[RdmBatchError]) -> Location:
    bucket, _, path = rest.partition("/")
    if carries_credentials(uri):
        raise error(
            redact(uri),
            "carries credentials in the URI",
            "s3://bucket/prefix",
            "put the keys into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws/credentials",
        )
    if not bucket:
        raise error(uri, "names no bucket", "s3://bucket/prefix")
    return Location("s3", bucket, path.strip("/"))
