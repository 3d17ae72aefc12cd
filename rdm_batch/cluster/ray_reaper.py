"""End what a Ray started here leaves behind when the process that started it is killed.

Ray's agents look for their node now and then, and live on for up to a minute. This module is a
program as well, which does nothing until its standard input ends, and that happens when whoever
holds the other end dies, however it dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_GRACE_S = 3.0
"""How long Ray may take to end by itself."""
_DONE = "done"


class Reaper:
    """Tell the program which processes are Ray's."""

    def __init__(self) -> None:
        self._told: set[int] = set()
        # A session of its own: Ctrl-C is for this process, not for what outlives it.
        self._program = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def tell(self, process_id: int) -> None:
        """Name a process that is to end when this one has."""
        if process_id not in self._told:
            self._told.add(process_id)
            self._write(f"{process_id} {_started(process_id)}")

    def dismiss(self) -> None:
        """Let the program go: everything has ended."""
        self._write(_DONE)
        with contextlib.suppress(OSError):
            if self._program.stdin is not None:
                self._program.stdin.close()
        self._program.wait()

    def _write(self, line: str) -> None:
        # Somebody else may have ended it; Ray then takes its time.
        with contextlib.suppress(OSError, ValueError):
            if self._program.stdin is not None:
                self._program.stdin.write(f"{line}\n")
                self._program.stdin.flush()


def _started(process_id: int) -> str:
    """Tell when a process began, in clock ticks: its number may be given again. Empty: gone."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _main() -> None:
    known: dict[int, str] = {}
    for line in sys.stdin:
        if line.strip() == _DONE:
            return
        process_id, _, started = line.strip().partition(" ")
        known[int(process_id)] = started
    time.sleep(_GRACE_S)
    for process_id, started in known.items():
        if started and _started(process_id) == started:
            with contextlib.suppress(OSError):
                os.kill(process_id, signal.SIGKILL)


if __name__ == "__main__":
    _main()
