"""The store that is a prefix of an S3 bucket, on AWS or on anything that speaks its protocol.

Endpoint and credentials come from the usual AWS environment and files alone
(``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, ...).
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import s3fs
from fsspec.asyn import sync
from typing_extensions import override

from rdm_batch.errors import RdmBatchError, SampleSetError
from rdm_batch.storage.s3_errors import explain, is_transient, status_of
from rdm_batch.storage.store import PROBE_KEY, ObjectInfo, Store

# Five tries wait 0.25 + 0.5 + 1 + 2 s at most: long enough for a restarted gateway, short
# enough that a wrong endpoint is reported while the user still looks.
MAX_ATTEMPTS = 5
FIRST_WAIT_S = 0.25
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
READ_BUFFER_BYTES = 1 << 20
# Smallest part S3 accepts is 5 MiB and it takes 10,000 of them: 16 MiB reach 160 GB.
PART_BYTES = 16 << 20

_T = TypeVar("_T")


class _Connections:
    """The one client of this process, remade after a fork and when the environment changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made_for: dict[str, str] | None = None
        self._filesystem: Any = None
        self._inherited: list[Any] = []
        os.register_at_fork(after_in_child=self._start_over)

    def _start_over(self) -> None:
        # A client that is collected takes its sockets out of the event queue, which parent
        # and child share: the parent would wait for answers in vain. So it is kept, unused.
        self._inherited.append(self._filesystem)
        self._lock = threading.Lock()
        self._made_for = None

    def filesystem(self) -> Any:
        """Return the file system for the environment as it is now."""
        environment = {name: value for name, value in os.environ.items() if name[:4] == "AWS_"}
        with self._lock:
            if self._made_for != environment:
                self._filesystem = _new_filesystem()
                self._made_for = environment
            return self._filesystem


def endpoint_url() -> str | None:
    """Tell the endpoint the environment asks for. None means AWS itself or a config file's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _new_filesystem() -> Any:
    # Retries are made in one place, S3Store._retry; every layer below tries once.
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "max_pool_connections": 32,
        # Stores other than AWS refuse the trailing checksums newer clients add unasked.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if endpoint_url() is not None:
        config["s3"] = {"addressing_style": "path"}
    filesystem = s3fs.S3FileSystem(
        config_kwargs=config,
        use_listings_cache=False,
        skip_instance_cache=True,
        default_block_size=PART_BYTES,
    )
    filesystem.retries = 1
    return filesystem


_connections = _Connections()


class S3Store(Store):
    """A prefix of a bucket.

    Args:
        uri: The root, as given by the user.
        bucket: Bucket name.
        prefix: Key prefix without outer slashes; empty means the whole bucket.
        error: Class to raise for expected failures.
    """

    def __init__(
        self,
        uri: str,
        bucket: str,
        prefix: str,
        error: type[RdmBatchError] = SampleSetError,
    ) -> None:
        super().__init__(uri, error)
        self.bucket = bucket
        self.prefix = prefix

    @override
    def read_bytes(self, key: str) -> bytes:
        return self.read_range(key)

    def read_range(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read bytes ``start`` to ``stop`` (exclusive; None means the end) of an object."""
        limits = {} if start == 0 and stop is None else {"Range": _range_header(start, stop)}

        async def read(filesystem: Any) -> bytes:
            response = await filesystem._call_s3(
                "get_object", Bucket=self.bucket, Key=self._key(key), **limits
            )
            async with response["Body"] as body:
                return cast(bytes, await body.read())

        data = self._retry(key, read)
        if stop is not None and len(data) != stop - start:
            raise self.error(
                self.child_uri(key),
                f"gave {len(data):,} bytes for a range of {stop - start:,}",
                action="it changed while it was read, or the store ignores ranges; run again",
            )
        return data

    @override
    def write_bytes(self, key: str, data: bytes) -> None:
        self._call(key, "put_object", Key=self._key(key), Body=data, ContentMD5=_md5(data))

    @override
    def write_bytes_if_absent(self, key: str, data: bytes) -> bool:
        # The look first is for stores that take the condition and ignore it.
        if self.exists(key):
            return False
        request = {"Key": self._key(key), "Body": data, "ContentMD5": _md5(data)}

        async def put(filesystem: Any) -> bool:
            try:
                await filesystem._call_s3(
                    "put_object", Bucket=self.bucket, IfNoneMatch="*", **request
                )
            except OSError as problem:
                if status_of(problem) == 412:
                    return False
                if status_of(problem) != 501:
                    raise
                await filesystem._call_s3("put_object", Bucket=self.bucket, **request)
            return True

        return self._retry(key, put)

    @override
    def stat(self, key: str) -> ObjectInfo | None:
        async def head(filesystem: Any) -> ObjectInfo | None:
            try:
                found = await filesystem._call_s3(
                    "head_object", Bucket=self.bucket, Key=self._key(key)
                )
            except FileNotFoundError:
                return None
            return ObjectInfo(key, found["ContentLength"], found["ETag"].strip('"'))

        return self._retry(key, head)

    @override
    def list_objects(self, folder: str = "") -> list[ObjectInfo]:
        start = f"{self._key(folder)}/" if self._key(folder) else ""
        root = len(self.prefix) + 1 if self.prefix else 0
        found: list[ObjectInfo] = []
        more: dict[str, str] = {}
        while True:
            page = self._call(folder, "list_objects_v2", Prefix=start, **more)
            found += [
                ObjectInfo(item["Key"][root:], item["Size"], item["ETag"].strip('"'))
                for item in page.get("Contents", [])
                if not item["Key"].endswith("/")
            ]
            if not page.get("IsTruncated"):
                return sorted(found, key=lambda info: info.key)
            more = {"ContinuationToken": page["NextContinuationToken"]}

    @override
    def delete(self, key: str) -> None:
        self._call(key, "delete_object", Key=self._key(key))

    @override
    def open_read(self, key: str) -> io.BufferedReader:
        return io.BufferedReader(_RangeReader(self, key), READ_BUFFER_BYTES)

    @override
    @contextmanager
    def open_write(self, key: str) -> Iterator[io.BufferedIOBase]:
        upload = _Upload(self, key)
        try:
            yield upload
            upload.commit()
        except BaseException:
            upload.abort()
            raise

    @override
    def check_writable(self) -> None:
        self._call("", "put_object", Key=self._key(PROBE_KEY), Body=b"")
        try:
            self.delete(PROBE_KEY)
        except RdmBatchError as problem:
            raise self.error(
                self.uri,
                f"objects can be written but not removed ({problem.found})",
                "permission to delete",
                f"grant it and remove {self.child_uri(PROBE_KEY)}",
            ) from problem

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self.prefix, key) if part)

    def _call(self, key: str, operation: str, **request: Any) -> Any:
        async def call(filesystem: Any) -> Any:
            return await filesystem._call_s3(operation, Bucket=self.bucket, **request)

        return self._retry(key, call)

    def _retry(self, key: str, request: Callable[[Any], Awaitable[_T]]) -> _T:
        """Make a request until it is answered for good, waiting longer each time."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                filesystem = _connections.filesystem()
                return cast(_T, sync(filesystem.loop, request, filesystem))
            except Exception as problem:
                if attempt < MAX_ATTEMPTS and is_transient(problem):
                    time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
                    continue
                reason = explain(problem, self.bucket, endpoint_url(), attempt)
                if reason is None:
                    raise
                raise self.error(self.child_uri(key), *reason) from problem
        raise AssertionError("unreachable: the last attempt returns or raises")


class _RangeReader(io.RawIOBase):
    """Read ranges of one object on demand."""

    def __init__(self, store: S3Store, key: str) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._size = store.size(key)
        self._position = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    @override
    def tell(self) -> int:
        return self._position

    @override
    def readall(self) -> bytes:
        # The inherited one asks for 8 KiB at a time.
        start, self._position = self._position, max(self._position, self._size)
        return self._store.read_range(self._key, start, self._size) if start < self._size else b""

    @override
    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        data = self._store.read_range(self._key, self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Upload(io.BufferedIOBase):
    """Collect parts of one object; nothing is visible before ``commit``."""

    def __init__(self, store: S3Store, key: str) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._target = {"Key": store._key(key)}
        self._buffer = bytearray()
        self._parts: list[dict[str, Any]] = []
        self._position = 0

    @override
    def writable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._position

    @override
    def write(self, data: Any) -> int:
        self._buffer += data
        count = len(memoryview(data).cast("B"))
        self._position += count
        while len(self._buffer) >= 2 * PART_BYTES:
            self._send(PART_BYTES)
        return count

    def commit(self) -> None:
        """Make the object appear."""
        if "UploadId" not in self._target:
            self._store.write_bytes(self._key, bytes(self._buffer))
            return
        while self._buffer:
            self._send(PART_BYTES if len(self._buffer) >= 2 * PART_BYTES else len(self._buffer))
        self._call("complete_multipart_upload", MultipartUpload={"Parts": self._parts})

    def abort(self) -> None:
        """Drop what was sent."""
        if "UploadId" in self._target:
            self._call("abort_multipart_upload")

    def _send(self, count: int) -> None:
        if "UploadId" not in self._target:
            self._target["UploadId"] = self._call("create_multipart_upload")["UploadId"]
        body = bytes(self._buffer[:count])
        del self._buffer[:count]
        number = len(self._parts) + 1
        answer = self._call("upload_part", PartNumber=number, Body=body, ContentMD5=_md5(body))
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})

    def _call(self, operation: str, **request: Any) -> Any:
        return self._store._call(self._key, operation, **self._target, **request)


def _range_header(start: int, stop: int | None) -> str:
    return f"bytes={start}-{'' if stop is None else stop - 1}"


def _md5(data: bytes) -> str:
    # Lets the store refuse what was damaged on its way; every S3 implementation checks it.
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
