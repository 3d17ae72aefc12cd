"""Which kernels attention takes while a network is trained."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_ON_GPU: Final = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def plain_attention(device: torch.device) -> AbstractContextManager[None]:
    """Have attention computed by plain products on a CPU, by PyTorch's kernels elsewhere.

    In bfloat16 the fused attention of a CPU takes up to four times as long to go back through.
    """
    return sdpa_kernel([SDPBackend.MATH] if device.type == "cpu" else _ON_GPU)


def plain_attention_in_bfloat16(device: torch.device) -> AbstractContextManager[None]:
    """Do so under autocast alone: in float32 the fused attention of a CPU is not slower."""
    return plain_attention(device) if torch.is_autocast_enabled(device.type) else nullcontext()
