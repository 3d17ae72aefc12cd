"""The most memory a stretch of work took in this process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RESET_PEAK = "5"
"""As proc(5) has it for ``clear_refs``: the peak resident set becomes what is resident now."""


class PeakMemory:
    """Hold what ``peak_memory`` has measured.

    Attributes:
        num_bytes: Once the block has ended; None where the system does not tell.
    """

    num_bytes: float | None = None


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
    match = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is not None:
        found.num_bytes = 1024.0 * int(match[1])
