"""Compile what a head repeats."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


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
