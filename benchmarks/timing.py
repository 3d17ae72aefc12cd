"""Take times, and the memory of this process at its highest."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from rdm_batch.regression.memory import peak_resident

Result = TypeVar("Result")


def once(run: Callable[[], Result]) -> tuple[float, Result]:
    """Give the wall seconds of a call, and what it returned."""
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def once_with_cpu(run: Callable[[], Result]) -> tuple[float, float, Result]:
    """Give the wall seconds of a call, those of the processor in all threads, what it returned.

    The second is what long work takes of a machine that others use too, or stop meanwhile.
    """
    before = time.process_time()
    seconds, result = once(run)
    return seconds, time.process_time() - before, result


def best_time(run: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Give the shortest of several timings in seconds, after one that is not counted.

    The shortest and not the middle: what else the machine does only ever adds.
    """
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            _synchronize(device)
            begin = time.perf_counter()
            run()
            _synchronize(device)
            times.append(time.perf_counter() - begin)
    return min(times[1:])


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def reset_peak_memory(device: str = "cpu") -> None:
    """Forget the largest amount of memory used so far."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        # Linux: 5 resets the high-water mark of the resident set.
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: str = "cpu") -> int:
    """Give the largest amount of memory used since the start, or since ``reset_peak_memory``."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    peak = peak_resident()
    if peak is None:
        raise RuntimeError("/proc/self/status has no VmHWM")
    return int(peak)
