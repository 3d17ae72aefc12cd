"""Files as wholes: their digests, the digest of a JSON value, and writing them aside."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL_SUFFIX = ".partial"
_READ_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """Digest a file without holding it in memory."""
    with path.open("rb") as stream:
        return stream_sha256(stream)


def stream_sha256(stream: BinaryIO) -> str:
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


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file gets its own name when the block ends well.

    A reader never sees half a file, and a block that fails leaves what was there before.

    Args:
        path: The file's own name; its folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL_SUFFIX}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
