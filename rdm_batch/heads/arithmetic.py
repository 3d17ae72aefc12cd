"""Where and in which numbers a head computes, and how what it repeats is compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rdm_batch.errors import ClusterError, SpecError
from rdm_batch.specs.precisions import PRECISIONS, Precision


def torch_dtype(precision: Precision) -> torch.dtype:
    """Give the type of the networks' weights and activations."""
    dtype: torch.dtype = getattr(torch, PRECISIONS[precision].dtype)
    return dtype


def check_precision(precision: Precision, device: str) -> None:
    """Refuse an arithmetic that a device does not have.

    Args:
        precision: The arithmetic.
        device: ``cpu`` or ``cuda``.

    Raises:
        SpecError: TF32 is asked of a CPU.
    """
    if PRECISIONS[precision].tf32 and device == "cpu":
        raise SpecError(
            "model.precision",
            f"is {precision}, an arithmetic of NVIDIA GPUs, but the head computes on a CPU",
            "float32, float16 or bfloat16, or a GPU for each head",
        )


def require_device(device: str) -> str:
    """Give back the device a worker was told to compute on, once it is known to be there.

    What was reserved decides, never what happens to be visible: a worker that reserved no
    GPU computes on the CPU beside one, and one that did never falls back to the CPU.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        ClusterError: A GPU was reserved, and PyTorch can use none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ClusterError(
            "GPU",
            f"one is reserved, but PyTorch {torch.__version__} finds none it can use",
            "a driver that this build of PyTorch supports",
            "install it, or compute on CPUs with cluster.gpus_per_head 0",
        )
    return device


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
