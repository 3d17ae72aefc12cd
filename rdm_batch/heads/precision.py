"""Arithmetic a head can compute in."""

from __future__ import annotations

from typing import Final, Literal

import torch

Precision = Literal["float32", "bfloat16"]

_DTYPES: Final[dict[Precision, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


def torch_dtype(precision: Precision) -> torch.dtype:
    """Give the type of the networks' weights and activations."""
    return _DTYPES[precision]
