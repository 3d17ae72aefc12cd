"""What this machine can do at the moment, beside which a speed is charted."""

from __future__ import annotations

import time

import torch

_SIDE = 512
"""Of the square matrices: three of them fit into the second-level cache of a server's core."""
_LEAST_S = 0.02


def measure_floor(seconds: float = 0.3) -> float:
    """Measure the rate of square matrix products in float32, in operations per second.

    On as many threads as PyTorch uses. What a machine does for others, and the clock it runs at,
    move this rate as they move a head's; their ratio stays.

    Args:
        seconds: How long to measure. The best of several stretches counts: what else the machine
            does only ever adds time.
    """
    left, right = (torch.rand(_SIDE, _SIDE, generator=_generator(seed)) for seed in (0, 1))
    product = torch.empty(_SIDE, _SIDE)
    torch.mm(left, right, out=product)
    best, end = 0.0, time.perf_counter() + seconds
    while True:
        count, begin = 0, time.perf_counter()
        while (took := time.perf_counter() - begin) < _LEAST_S:
            torch.mm(left, right, out=product)
            count += 1
        best = max(best, 2 * _SIDE**3 * count / took)
        if time.perf_counter() >= end:
            return best


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
