"""Memory in large pages, for numbers that a CPU reads from one end to the other again and again."""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import Final

import torch
from torch import Tensor

_PAGE: Final = 2**21
"""Bytes of a large page on x86-64 and, by default, on 64-bit ARM."""


def huge_empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Make room for a tensor on the CPU, of zeros, in large pages where the system has them.

    Prefetching ends where a page ends: from pages of 4 KiB one core reads a sixth to a third
    slower (docs/decisions/cpu-heads-multiply-less.md). Linux gives large pages to memory that
    asks for them; other systems and settings give ordinary ones, and nothing else changes.

    Args:
        shape: Of the tensor.
        dtype: Its type.
    """
    size = math.prod(shape) * dtype.itemsize
    # Nothing is stored before the first whole page, so it takes no memory.
    memory = mmap.mmap(-1, size + _PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel that was built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    begin = -whole.data_ptr() % _PAGE
    return whole[begin : begin + size].view(dtype).view(shape)


def empty_in_huge_pages(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Make room for a tensor on the CPU, in large pages if it fills any."""
    fills = math.prod(shape) * dtype.itemsize >= _PAGE
    return huge_empty(shape, dtype) if fills else torch.empty(shape, dtype=dtype)


def in_huge_pages(tensor: Tensor) -> Tensor:
    """Copy a tensor of the CPU into large pages, if it fills any."""
    return empty_in_huge_pages(tuple(tensor.shape), tensor.dtype).copy_(tensor)
