"""Comparisons shared by the numeric tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def relative_error(actual: Any, reference: Any) -> float:
    """Give the largest absolute difference over the reference's largest absolute value."""
    actual = _as_array(actual)
    reference = _as_array(reference)
    assert actual.shape == reference.shape
    return float(np.abs(actual - reference).max() / np.abs(reference).max())


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=np.float64)
