"""The most memory a stretch of work took in this process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

_RESET_PEAK = "5"
"""As proc(5) has it for ``clear_refs``: the peak resident set becomes what is resident now."""


class PeakMemory:
    """Hold what ``peak_memory`` has measured.

    Attributes:
        num_bytes: Once the block has ended; None where the system does not tell.
    """

    num_bytes: float | None = None


def peak_resident(process: int | Literal["self"] = "self") -> float | None:
    """Give the most bytes that a process ever held in memory; None where the system does not tell.

    Unlike ``ru_maxrss`` this counts from the start of the program, not from that of the process
    that started it.

    Args:
        process: Its number, which may have ended.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return None if match is None else 1024.0 * int(match[1])


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Measure the largest resident set of this process during a block."""
    found = PeakMemory()
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        yield found
        return
    yield found
    found.num_bytes = peak_resident()
