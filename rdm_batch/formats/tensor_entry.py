"""Where a tensor lies in a weights file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from rdm_batch.errors import CheckpointError

# A safetensors header of the largest preset is 0.2 MB, a pickle of it with optimizer state
# 1 MB. More than this is damage or malice.
MAX_HEADER_BYTES: Final = 100 * 2**20


@dataclass(frozen=True)
class TensorEntry:
    """Locate one tensor in a file.

    Attributes:
        dtype: Its type.
        shape: Its shape.
        stride: Elements from one index to the next, for every dimension.
        position: Byte of the file at which its storage starts.
        offset: Elements of the storage before its first.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    position: int
    offset: int = 0


def extent(entry: TensorEntry) -> int:
    """Count the elements from a tensor's first to its last."""
    if 0 in entry.shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(entry.shape, entry.stride, strict=True))


def damaged(path: Path, what: str) -> CheckpointError:
    """Describe a file that is not what it was when it was written."""
    return CheckpointError(
        str(path), f"the file is damaged or truncated ({what})", action="copy it again"
    )
