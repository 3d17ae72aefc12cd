"""Where and in which numbers a head computes, and how what it repeats is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16"]

_DTYPES: Final[dict[Precision, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


def torch_dtype(precision: Precision) -> torch.dtype:
    """Give the type of the networks' weights and activations."""
    return _DTYPES[precision]


def head_device() -> str:
    """Choose the GPU this process may use, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def compiled(function: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Compile a function for inputs of fixed shapes.

    On a GPU its kernels are also recorded in a CUDA graph, so that launching them costs next
    to nothing; what it returns is then overwritten by the next call.
    """
    if device.type != "cuda":
        return torch.compile(function, dynamic=False)
    recorded = torch.compile(function, dynamic=False, mode="reduce-overhead")

    def run(*args: object) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return recorded(*args)

    return run
