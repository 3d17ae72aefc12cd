"""Bring batches to the network: data and chance stay on the CPU, the same for every device."""

from __future__ import annotations

from torch import Tensor, nn


def on_device_of(network: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Move tensors to where a network computes."""
    device = next(network.parameters()).device
    return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)
