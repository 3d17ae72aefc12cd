"""Requests to an S3 store: made until they are answered for good, in bounded time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from fsspec.asyn import sync

from rdm_batch.errors import RdmBatchError, SampleSetError
from rdm_batch.storage import s3_client
from rdm_batch.storage.etags import tag_of
from rdm_batch.storage.s3_client import connections, endpoint_url, open_session
from rdm_batch.storage.s3_errors import FalseAnswer, explain, is_missing, is_transient
from rdm_batch.storage.store import Store

# Five tries wait 0.25 + 0.5 + 1 + 2 s at most: long enough for a restarted gateway, short
# enough that a wrong endpoint is reported while the user still looks.
MAX_ATTEMPTS = 5
FIRST_WAIT_S = 0.25
# A store may show what it was given a moment later.
LOOKS = 3
# What comes more slowly than this is taken for a connection that hangs.
MIN_BYTES_PER_S = 16 << 10

_T = TypeVar("_T")


class S3Requests(Store):
    """What every operation on a prefix of a bucket is made of.

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

    def full_key(self, key: str) -> str:
        """Give the key of an object in the bucket."""
        return "/".join(part for part in (self.prefix, key) if part)

    @property
    def place(self) -> tuple[str, str]:
        """Name the bucket among those of all stores."""
        return endpoint_url() or "", self.bucket

    def call(self, key: str, operation: str, needs: str | None = None, **request: Any) -> Any:
        """Make a request about an object until it is answered for good.

        Args:
            key: The object, for messages.
            operation: Name of the request.
            needs: A field that the answer must hold.
            request: Its fields.
        """

        async def call(filesystem: Any) -> Any:
            answer = await self.ask(filesystem, operation, **request)
            if needs is not None and not answer.get(needs):
                raise FalseAnswer(f"was answered without {needs}")
            return answer

        return self.retry(key, call)

    async def ask(self, filesystem: Any, operation: str, **request: Any) -> Any:
        """Make a request once, in bounded time."""
        async with asyncio.timeout(_limit_s(len(request.get("Body", b"")))):
            return await filesystem._call_s3(operation, Bucket=self.bucket, **request)

    async def look(self, filesystem: Any, key: str, num_bytes: int, answer: Any) -> Any:
        """Make sure that an object is what was written.

        Args:
            filesystem: The client.
            key: The object.
            num_bytes: Its size.
            answer: What the store said when it took it.

        Returns:
            What the store says of it now.
        """
        found = None
        for attempt in range(LOOKS):
            await asyncio.sleep(FIRST_WAIT_S * attempt)
            found = await self.head(filesystem, key)
            if (
                found is not None
                and found["ContentLength"] == num_bytes
                and (not tag_of(answer) or tag_of(found) == tag_of(answer))
            ):
                return found
        if found is None:
            raise FalseAnswer("is not there although the store took it")
        size = found["ContentLength"]
        other = f"has {size:,} bytes" if size != num_bytes else "has other content"
        raise FalseAnswer(f"{other} after the store took {num_bytes:,} bytes for it")

    def retry(self, key: str, request: Callable[[Any], Awaitable[_T]]) -> _T:
        """Make a request until it is answered for good, waiting longer each time.

        Raises:
            RdmBatchError: As ``error``, whatever fails; with nothing of what the client wrote.
        """

        async def in_session(filesystem: Any) -> _T:
            await open_session(filesystem)
            return await request(filesystem)

        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                filesystem = connections.filesystem()
                return cast(_T, sync(filesystem.loop, in_session, filesystem))
            except Exception as problem:
                again = attempt < MAX_ATTEMPTS and is_transient(problem)
                reason = explain(problem, self.bucket, endpoint_url(), attempt)
            if not again:
                break
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
        # Not within the handler: the client's own error, which may repeat an endpoint, a proxy or
        # a header as the user gave them, must not be printed as the cause of this one.
        raise self.error(self.child_uri(key), *reason)

    async def head(self, filesystem: Any, key: str) -> Any:
        """Look an object up. None when it does not exist."""
        try:
            found = await self.ask(filesystem, "head_object", Key=self.full_key(key))
        except OSError as problem:
            if is_missing(problem):
                return None
            raise
        if found.get("ContentLength") is None:
            raise FalseAnswer("was answered without its length")
        return found


async def body_of(answer: Any) -> bytes:
    """Read a body, whole and in bounded time."""
    length = answer.get("ContentLength")
    async with answer["Body"] as body, asyncio.timeout(_limit_s(length or 0)):
        data = cast(bytes, await body.read())
    if length is not None and len(data) != length:
        raise FalseAnswer(f"gave {len(data):,} of {length:,} bytes")
    return data


def _limit_s(num_bytes: int) -> float:
    return s3_client.READ_TIMEOUT_S + num_bytes / MIN_BYTES_PER_S
