"""Where heads and extractors compute."""

from __future__ import annotations

import torch


def head_device() -> str:
    """Choose the GPU this process may use, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
