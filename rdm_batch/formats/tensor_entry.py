"""Where a tensor lies in a weights file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from rdm_batch.errors import CheckpointError

MAX_DIMENSIONS: Final = 16


@dataclass(frozen=True)
class StoredBytes:
    """Locate bytes of a file that have a checksum.

    Attributes:
        position: First byte of the file.
        num_bytes: How many.
        crc32: Their CRC-32, as the file records it.
    """

    position: int
    num_bytes: int
    crc32: int


@dataclass(frozen=True)
class TensorEntry:
    """Locate one tensor in a file.

    Attributes:
        dtype: Its type.
        shape: Its shape.
        stride: Elements from one index to the next, for every dimension.
        position: Byte of the file at which its storage starts.
        offset: Elements of the storage before its first.
        stored: The bytes it is part of, where the file has a checksum of them.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    position: int
    offset: int = 0
    stored: StoredBytes | None = None


def extent(entry: TensorEntry) -> int:
    """Count the elements from a tensor's first to its last."""
    if 0 in entry.shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(entry.shape, entry.stride, strict=True))


def end_of(entry: TensorEntry) -> int:
    """Give the byte of its storage at which a tensor ends."""
    return (entry.offset + extent(entry)) * entry.dtype.itemsize


def damaged(path: Path, what: str) -> CheckpointError:
    """Describe a file that is not what it was when it was written."""
    return CheckpointError(
        str(path), f"the file is damaged or truncated ({what})", action="copy it again"
    )


def unusable(path: Path, what: str) -> CheckpointError:
    """Describe a file that is damaged, or was never one of tensors."""
    return CheckpointError(str(path), f"cannot be read as weights ({what})")
