"""The store that is a prefix of an S3 bucket, on AWS or on anything that speaks its protocol.

Nothing a store answers is taken on trust: lengths are compared, contents where a digest is
known, ranges belong to one version of their object, and what was written is looked at
(docs/decisions/what-a-store-says-is-checked.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typing_extensions import override

from rdm_batch.errors import RdmBatchError
from rdm_batch.files import RecordedFile
from rdm_batch.storage.etags import claimed_md5, md5_hex, tag_of, tags
from rdm_batch.storage.s3_errors import FalseAnswer, is_missing, status_of
from rdm_batch.storage.s3_objects import RangeReader, Upload, base64_md5
from rdm_batch.storage.s3_requests import MAX_ATTEMPTS, S3Requests, body_of
from rdm_batch.storage.store import PROBE_KEY, ObjectInfo

READ_BUFFER_BYTES = 1 << 20


class S3Store(S3Requests):
    """A prefix of a bucket. Made by ``object_store.open_store``."""

    @override
    def read_if_there(self, key: str) -> bytes | None:
        wrong: list[str] = []

        async def read(filesystem: Any) -> bytes | None:
            try:
                answer = await self.ask(filesystem, "get_object", Key=self.full_key(key))
            except OSError as problem:
                if is_missing(problem):
                    return None
                raise
            data = await body_of(answer)
            if answer.get("ContentLength") is None:
                found = await self.head(filesystem, key)
                if found is None or len(data) != found["ContentLength"]:
                    raise FalseAnswer(f"gave {len(data):,} bytes and no length")
            self._check_tag(answer, data, wrong)
            return data

        return self.retry(key, read)

    @override
    def open_recorded(self, file: RecordedFile) -> io.BufferedIOBase:
        async def read(filesystem: Any) -> bytes:
            answer = await self.ask(filesystem, "get_object", Key=self.full_key(file.path))
            data = await body_of(answer)
            if len(data) != file.num_bytes:
                raise FalseAnswer(f"has {len(data):,} bytes; needed {file.num_bytes:,} bytes")
            if hashlib.sha256(data).hexdigest() != file.sha256:
                raise FalseAnswer("has other content than its digest says")
            return data

        return io.BytesIO(self.retry(file.path, read))

    def read_range(self, found: ObjectInfo, start: int, stop: int) -> bytes:
        """Read bytes ``start`` to ``stop`` (exclusive) of an object as it was found.

        Raises:
            RdmBatchError: As ``error``, also when it has changed since.
        """

        async def read(filesystem: Any) -> bytes:
            answer = await self.ask(
                filesystem,
                "get_object",
                Key=self.full_key(found.key),
                Range=f"bytes={start}-{stop - 1}",
            )
            if found.tag and not tag_of(answer):
                raise FalseAnswer("was answered without an ETag")
            if tag_of(answer) != found.tag:
                raise FalseAnswer("changed while it was read", "run again")
            data = await body_of(answer)
            if len(data) != stop - start:
                raise FalseAnswer(
                    f"gave {len(data):,} bytes for a range of {stop - start:,}",
                    "it changed while it was read, or the store ignores ranges; run again",
                )
            told = answer.get("ContentRange")
            wanted = f"bytes {start}-{stop - 1}/{found.num_bytes}"
            if told != wanted and (told is not None or len(data) != found.num_bytes):
                raise FalseAnswer("gave another range than was asked for")
            return data

        return self.retry(found.key, read)

    @override
    def write_bytes(self, key: str, data: bytes) -> None:
        async def put(filesystem: Any) -> None:
            await self._put(filesystem, key, data)

        self.retry(key, put)

    @override
    def write_bytes_if_absent(self, key: str, data: bytes) -> bool:
        # The look first is for stores that take the condition and ignore it.
        if self.exists(key):
            return False

        async def put(filesystem: Any) -> bool:
            try:
                await self._put(filesystem, key, data, IfNoneMatch="*")
            except OSError as problem:
                if status_of(problem) == 412:
                    return False
                if status_of(problem) != 501:
                    raise
                await self._put(filesystem, key, data)
            return True

        return self.retry(key, put)

    @override
    def stat(self, key: str) -> ObjectInfo | None:
        async def head(filesystem: Any) -> ObjectInfo | None:
            found = await self.head(filesystem, key)
            return None if found is None else ObjectInfo(key, found["ContentLength"], tag_of(found))

        return self.retry(key, head)

    @override
    def list_objects(self, folder: str = "") -> list[ObjectInfo]:
        start = f"{self.full_key(folder)}/" if self.full_key(folder) else ""
        root = len(self.prefix) + 1 if self.prefix else 0
        found: list[ObjectInfo] = []
        more: dict[str, str] = {}
        while True:
            page = self._list_page(folder, start, more)
            found += [
                ObjectInfo(item["Key"][root:], item["Size"], tag_of(item))
                for item in page.get("Contents", [])
                if not item["Key"].endswith("/")
            ]
            if not page.get("IsTruncated"):
                return sorted(found, key=lambda info: info.key)
            more = {"ContinuationToken": page["NextContinuationToken"]}

    @override
    def delete(self, key: str) -> None:
        self.call(key, "delete_object", Key=self.full_key(key))

    @override
    def open_read(self, key: str) -> io.BufferedReader:
        return io.BufferedReader(RangeReader(self, key), READ_BUFFER_BYTES)

    @override
    @contextmanager
    def open_write(self, key: str) -> Iterator[io.BufferedIOBase]:
        upload = Upload(self, key)
        try:
            yield upload
            upload.commit()
        except BaseException:
            # What failed first is what the user must know.
            with contextlib.suppress(self.error):
                upload.abort()
            raise

    @override
    def check_writable(self) -> None:
        self.write_bytes(PROBE_KEY, b"")
        try:
            self.delete(PROBE_KEY)
        except RdmBatchError as problem:
            raise self.error(
                self.uri,
                f"objects can be written but not removed ({problem.found})",
                "permission to delete",
                f"grant it and remove {self.child_uri(PROBE_KEY)}",
            ) from problem

    def tag_agrees(self, found: ObjectInfo, md5: str) -> bool | None:
        """Compare the tag of an object with the MD5 of its content.

        Returns:
            None where the tag need not be an MD5.
        """
        if found.tag.lower() == md5:
            tags.matched(self.place)
            return True
        claimed = claimed_md5({"ETag": found.tag}, self.bucket)
        if claimed is None or tags.known(self.place) is False:
            return None

        async def head(filesystem: Any) -> Any:
            return await self.head(filesystem, found.key)

        # Only its own answer tells how the object is encrypted.
        answer = self.retry(found.key, head)
        if answer is not None and claimed_md5(answer, self.bucket) is None:
            return None
        return False

    def tags_are_opaque(self) -> bool:
        """Note that an object kept a tag that is not its MD5; False where others had theirs."""
        tags.never_matched(self.place)
        return tags.known(self.place) is False

    async def _put(self, filesystem: Any, key: str, data: bytes, **condition: str) -> None:
        answer = await self.ask(
            filesystem,
            "put_object",
            Key=self.full_key(key),
            Body=data,
            ContentMD5=base64_md5(data),
            **condition,
        )
        found = await self.look(filesystem, key, len(data), answer)
        claimed = claimed_md5(found, self.bucket)
        if claimed == md5_hex(data):
            tags.matched(self.place)
        elif claimed is not None and tags.known(self.place):
            raise FalseAnswer("has other content than was sent")

    def _check_tag(self, answer: Any, data: bytes, wrong: list[str]) -> None:
        """Compare the content of an object that was read whole with its tag.

        Args:
            answer: What the store said of it.
            data: The content.
            wrong: MD5s of earlier tries that did not agree.
        """
        if not tag_of(answer):
            # Error pages have none, every object does.
            raise FalseAnswer("was answered without an ETag")
        claimed, md5 = claimed_md5(answer, self.bucket), md5_hex(data)
        if claimed == md5:
            tags.matched(self.place)
        if claimed in (None, md5) or tags.known(self.place) is False:
            return
        wrong.append(md5)
        if len(wrong) == MAX_ATTEMPTS and len(set(wrong)) == 1 and self.tags_are_opaque():
            return
        raise FalseAnswer("has other content than its ETag says", "try again later")

    def _list_page(self, folder: str, start: str, more: dict[str, str]) -> Any:
        async def ask(filesystem: Any) -> Any:
            page = await self.ask(filesystem, "list_objects_v2", Prefix=start, **more)
            items = page.get("Contents", [])
            if any(not str(item.get("Key", "")).startswith(start) for item in items):
                raise FalseAnswer("was listed with objects of another place")
            if page.get("KeyCount", len(items)) != len(items):
                raise FalseAnswer(f"was listed with {len(items)} of {page['KeyCount']} objects")
            following = page.get("NextContinuationToken")
            if page.get("IsTruncated") and following in (None, "", more.get("ContinuationToken")):
                raise FalseAnswer("was listed in part, without a way to go on")
            return page

        return self.retry(folder, ask)
