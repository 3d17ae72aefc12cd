"""Copies between host and GPU that nobody waits for before it has to.

What is copied from or to ordinary memory is copied while the host waits, behind everything the
GPU was told to do. From and to pinned memory the GPU copies by itself, in its turn.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor


def upload(values: Shaped[np.ndarray, "..."], device: torch.device | str) -> Tensor:
    """Copy numbers to a device, behind what it is doing and without waiting for that."""
    device, host = torch.device(device), torch.from_numpy(values)
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def leave(values: Tensor) -> Tensor:
    """Send numbers to the host; they are there once ``arrived``, or an event behind this, says so.

    Pinned memory is kept by PyTorch for the next ones. On a CPU the numbers are there already.
    """
    if values.device.type != "cuda":
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def arrived(device: torch.device | str) -> None:
    """Wait for everything that the current stream of a device was told to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.current_stream(device).synchronize()
