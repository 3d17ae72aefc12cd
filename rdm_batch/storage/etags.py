"""What the ETags of a store tell about content, and how far to trust them.

The ETag of an object that was written in one request is the MD5 of its content, except where
the object is encrypted with keys of KMS or of the customer, in directory buckets, and on stores
that make up tags of their own. Of a store that is not known yet only a match is evidence:
nothing else than an MD5 equals one. See docs/decisions/what-a-store-says-is-checked.md.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping
from typing import Any

_MD5 = re.compile(r"[0-9a-f]{32}")
_DIRECTORY_BUCKET = "--x-s3"
_KMS = ("aws:kms", "aws:kms:dsse")


def md5_hex(data: bytes) -> str:
    """Digest bytes as ETags do."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def claimed_md5(answer: Mapping[str, Any], bucket: str) -> str | None:
    """Give the MD5 that the tag of an object can be.

    Args:
        answer: What a store said of the object.
        bucket: Where it is.

    Returns:
        The MD5 in hexadecimal digits; None where the tag is none.
    """
    if answer.get("ServerSideEncryption") in _KMS or answer.get("SSECustomerAlgorithm"):
        return None
    tag = tag_of(answer).lower()
    return tag if _MD5.fullmatch(tag) and not bucket.endswith(_DIRECTORY_BUCKET) else None


def tag_of(answer: Mapping[str, Any]) -> str:
    """Give the tag of an object without its quotes; empty where the store gave none."""
    return str(answer.get("ETag") or "").strip('"')


class TagKnowledge:
    """Remember of every bucket this process used whether its tags are MD5s."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._are_md5: dict[tuple[str, str], bool] = {}

    def known(self, place: tuple[str, str]) -> bool | None:
        """Tell whether the tags of a bucket are MD5s. None: nothing is known yet."""
        with self._lock:
            return self._are_md5.get(place)

    def matched(self, place: tuple[str, str]) -> None:
        """Note that the tag of an object was the MD5 of its content."""
        with self._lock:
            self._are_md5[place] = True

    def never_matched(self, place: tuple[str, str]) -> None:
        """Note that an object kept a tag that is not the MD5 of what was read every time."""
        with self._lock:
            self._are_md5.setdefault(place, False)


tags = TagKnowledge()
"""What this process knows."""
