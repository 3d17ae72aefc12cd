"""One object of an S3 store as a file: ranges read on demand, parts written in turn."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from rdm_batch.storage.etags import md5_hex
from rdm_batch.storage.s3_client import PART_BYTES
from rdm_batch.storage.s3_errors import code_of

if TYPE_CHECKING:
    from rdm_batch.storage.s3 import S3Store


class RangeReader(io.RawIOBase):
    """Read ranges of one object on demand; all of them of the object that was found first."""

    def __init__(self, store: S3Store, key: str) -> None:
        super().__init__()
        found = store.stat(key)
        if found is None:
            raise store.missing(key)
        self._store = store
        self._found = found
        self._position = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._found.num_bytes
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: end}[whence]
        self._position = start + offset
        return self._position

    @override
    def tell(self) -> int:
        return self._position

    @override
    def readall(self) -> bytes:
        # The inherited one asks for 8 KiB at a time.
        start, end = self._position, self._found.num_bytes
        self._position = max(start, end)
        return self._store.read_range(self._found, start, end) if start < end else b""

    @override
    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._found.num_bytes)
        if stop <= self._position:
            return 0
        data = self._store.read_range(self._found, self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class Upload(io.BufferedIOBase):
    """Collect parts of one object; nothing is visible before ``commit``."""

    def __init__(self, store: S3Store, key: str) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._target = {"Key": store.full_key(key)}
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
        """Make the object appear, and look whether it did."""
        if "UploadId" not in self._target:
            self._store.write_bytes(self._key, bytes(self._buffer))
            return
        while self._buffer:
            self._send(PART_BYTES if len(self._buffer) >= 2 * PART_BYTES else len(self._buffer))
        request = {**self._target, "MultipartUpload": {"Parts": self._parts}}

        async def complete(filesystem: Any) -> None:
            try:
                answer = await self._store.ask(filesystem, "complete_multipart_upload", **request)
            except OSError as problem:
                # An earlier try of ours may have been carried out although its answer was lost.
                if code_of(problem) != "NoSuchUpload":
                    raise
                answer = {}
            await self._store.look(filesystem, self._key, self._position, answer)

        self._store.retry(self._key, complete)

    def abort(self) -> None:
        """Drop what was sent."""
        if "UploadId" in self._target:
            self._store.call(self._key, "abort_multipart_upload", **self._target)

    def _send(self, count: int) -> None:
        if "UploadId" not in self._target:
            begun = self._store.call(
                self._key, "create_multipart_upload", needs="UploadId", **self._target
            )
            self._target["UploadId"] = begun["UploadId"]
        body = bytes(self._buffer[:count])
        del self._buffer[:count]
        number = len(self._parts) + 1
        answer = self._store.call(
            self._key,
            "upload_part",
            needs="ETag",
            **self._target,
            PartNumber=number,
            Body=body,
            ContentMD5=base64_md5(body),
        )
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})


def base64_md5(data: bytes) -> str:
    """Digest a body for the store to compare: it refuses what was damaged on its way."""
    return base64.b64encode(bytes.fromhex(md5_hex(data))).decode()
