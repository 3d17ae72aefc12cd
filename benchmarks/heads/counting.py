"""Count what a computation must do, and measure what the machine can."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import best_time
from rdm_batch.backends import multiplying
from rdm_batch.heads.native_code import native_library
from rdm_batch.heads.work import count_flops
from rdm_batch.models.huge_pages import huge_empty

READ_BYTES: Final = 800_000_000
"""What the rate of memory is measured with: the weights of a transformer of published size."""


@dataclass(frozen=True)
class Work:
    """Count what an image needs.

    Attributes:
        flops: Floating-point operations.
        num_bytes: Memory traffic if every operation reads its inputs and writes its outputs.
        weight_bytes: Traffic of the weights alone, each read once an evaluation.
    """

    flops: float = 0.0
    num_bytes: float = 0.0
    weight_bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.num_bytes + other.num_bytes,
            self.weight_bytes + other.weight_bytes,
        )

    def __mul__(self, factor: float) -> Work:
        return Work(self.flops * factor, self.num_bytes * factor, self.weight_bytes * factor)

    def unhidden_s(self, machine: Machine) -> float:
        """Predict the time if arithmetic and memory traffic each go at the measured rate."""
        return self.flops / machine.flops_per_s + self.num_bytes / machine.bytes_per_s

    def floor_s(self, machine: Machine) -> float:
        """Give the shortest time the operations, or reading the weights, can take."""
        return max(self.flops / machine.flops_per_s, self.weight_bytes / machine.bytes_per_s)


@dataclass(frozen=True)
class Machine:
    """Say what a device was measured to do at best."""

    flops_per_s: float
    bytes_per_s: float


class _ByteCounter(TorchDispatchMode):
    """Sum the sizes of the inputs and outputs of every operation that is not a mere view."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.__name__:
            for value in torch.utils._pytree.tree_leaves((args, kwargs, out)):
                if isinstance(value, torch.Tensor):
                    self.num_bytes += value.numel() * value.element_size()
        return out


def count_work(run: Callable[[], object], network: nn.Module, evaluations: int = 1) -> Work:
    """Count the work of a computation on tensors of the meta device.

    Args:
        run: The computation.
        network: The network it evaluates.
        evaluations: How often it does.
    """
    with _ByteCounter() as counter, torch.inference_mode():
        run()
    weight_bytes = sum(value.numel() * value.element_size() for value in network.parameters())
    return Work(count_flops(run), float(counter.num_bytes), float(evaluations * weight_bytes))


def measure_machine(
    device: str,
    dtype: torch.dtype,
    size: int,
    tf32: bool = False,
    read_bytes: int = READ_BYTES,
) -> Machine:
    """Measure the rate of large products, and of memory.

    The first is the better of a matrix product and a 3 x 3 convolution of as many channels as
    fit: on CPU two libraries compute them, and the faster says what the machine can do.

    Args:
        device: Where to compute.
        dtype: Type of the factors.
        size: Side of the square factors.
        tf32: Whether factors in float32 may be rounded to TF32 on a GPU; else they are IEEE.
        read_bytes: Size of what a CPU reads: more than its caches hold.
    """
    with multiplying(tf32):
        rate = max(matmul_rate(device, dtype, size), _convolution_rate(device, dtype, size))
    memory = read_rate(read_bytes) if device == "cpu" else copy_rate(device, size)
    return Machine(rate, memory)


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Measure the operations a second of a square product of random numbers."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / best_time(lambda: left @ right, 5, device)


def _convolution_rate(device: str, dtype: torch.dtype, size: int) -> float:
    channels, side = size // 4, 32
    image = torch.randn(8, channels, side, side, device=device).to(dtype)
    kernel = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    image, kernel = (x.to(memory_format=torch.channels_last) for x in (image, kernel))
    seconds = best_time(lambda: F.conv2d(image, kernel, padding=1), 5, device)
    return 2 * 9 * channels**2 * 8 * side**2 / seconds


def read_rate(num_bytes: int) -> float:
    """Measure the bytes a second that PyTorch's threads read of memory on the CPU, in large pages.

    Weights are read from one end to the other and not written; of copies a part stays in caches.

    Args:
        num_bytes: To read, at least.

    Raises:
        ClusterError: There is no compiler for the loop that reads.
    """
    threads = torch.get_num_threads()
    random = torch.randn(2**20)
    count = -(-num_bytes // (4 * threads * len(random))) * threads * len(random)
    numbers = huge_empty((count,), torch.float32)
    for part in numbers.split(len(random)):
        part.copy_(random)
    read = native_library(Path(__file__).with_name("reading.cpp")).read_floats
    address, length = ctypes.c_void_p(numbers.data_ptr()), ctypes.c_long(count)
    return 4 * count / best_time(lambda: read(address, length, threads), 5)


def copy_rate(device: str, size: int) -> float:
    """Measure the bytes a second of a copy, read and written.

    Of random bytes: zeros are never written to memory by some systems, and compressed by others.
    """
    source = torch.randint(0, 256, (size * size * 16,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / best_time(lambda: target.copy_(source), 5, device)
