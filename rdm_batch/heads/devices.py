"""What a worker was told to compute on: whether it is there, and what kind it is."""

from __future__ import annotations

from typing import Any

import torch

from rdm_batch.errors import ClusterError


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


def device_class(device: str) -> str:
    """Name the kind of a device: samples made on equal kinds have equal bytes.

    Every CPU is of one kind: others may move last digits, as the versions of software may, and
    entries say which they were (docs/decisions/device-classes.md).

    Args:
        device: ``cpu`` or ``cuda``.
    """
    if device == "cpu":
        return "cpu"
    major, minor = torch.cuda.get_device_capability()
    return f"cuda sm{major}{minor} {torch.cuda.get_device_name()}"


def device_software(device: str) -> dict[str, str]:
    """Name the versions that may move last digits on a GPU; nothing for a CPU."""
    if device == "cpu":
        return {}
    driver: Any = torch._C  # builds for CPUs alone lack its functions
    return {
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "driver": str(driver._cuda_getDriverVersion()),
    }
