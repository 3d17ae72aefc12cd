"""Pretend CUDA tensors on machines without a GPU: shapes and devices, no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def pretended_cuda() -> Iterator[FakeTensorMode]:
    """Let tensors be made on, and networks moved to, a device that is not there."""

    def replace(self: nn.Module, function: Any, recurse: bool = True) -> nn.Module:
        # A parameter cannot change its device in place while its numbers do not exist.
        for child in self.children():
            child._apply(function)
        for name, parameter in self._parameters.items():
            if parameter is not None:
                self._parameters[name] = nn.Parameter(function(parameter), requires_grad=False)
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = function(buffer)
        return self

    empty = torch.empty

    def anywhere(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        return empty(*args, **kwargs)

    stream = _Stream()
    with (
        patch.object(nn.Module, "_apply", replace),
        patch.object(torch, "empty", anywhere),
        patch.object(Tensor, "pin_memory", lambda self: self),
        patch.object(torch.cuda, "Event", _Event),
        patch.object(torch.cuda, "Stream", lambda device: stream),
        patch.object(torch.cuda, "stream", lambda stream: nullcontext()),
        patch.object(torch.cuda, "current_stream", lambda device=None: stream),
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
    ):
        yield mode


class _Event:
    """An event of no device, passed at once."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.timed = enable_timing

    def record(self, stream: object = None) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Do nothing."""

    def elapsed_time(self, end: _Event) -> float:
        """Give a millisecond, if both are timed as CUDA wants."""
        assert self.timed
        assert end.timed
        return 1.0


class _Stream:
    """A stream of no device."""

    def wait_event(self, event: _Event) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Do nothing."""


def convolution_backend() -> str:
    """Name what would compute a convolution of float32 on a GPU, under the flags of now."""
    with FakeTensorMode() as mode:
        x = torch.empty(4, 32, 73, 73, device="cuda")
        weight = torch.empty(64, 32, 3, 3, device="cuda")
    with mode:
        chosen: Any = torch._C._select_conv_backend(
            x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        )
    return str(chosen).rpartition(".")[2]


def is_cuda(tensor: object) -> bool:
    """Say whether something is a tensor on the pretended device."""
    return isinstance(tensor, Tensor) and tensor.device.type == "cuda"
