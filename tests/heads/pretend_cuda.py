"""Pretend CUDA tensors on machines without a GPU: shapes and devices, no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def pretended_cuda() -> Iterator[FakeTensorMode]:
    """Let tensors be made on, and networks moved to, a device that is not there."""
    apply = nn.Module._apply

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

    nn.Module._apply = replace  # type: ignore[method-assign]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]


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
