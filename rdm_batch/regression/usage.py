"""Run a command and say what it took: memory and processor time of it and of those it waited for.

A process inherits the peak of the one that starts it: Linux counts what was resident before the
new program was loaded into ``ru_maxrss``. A test or a nightly that holds gigabytes would find them
in every run it measures. So a bare interpreter of 10 MB starts the command; this file is what it
runs, and it imports nothing but the standard library.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True)
class Usage:
    """Hold what a command took.

    Args:
        status: Its exit status; negative, the signal that ended it.
        peak_memory_bytes: Largest resident memory of one of its processes.
        cpu_s: Processor time of all its threads and of the processes it waited for, start-up
            included. Others on a shared machine move it far less than the time that passes.
    """

    status: int
    peak_memory_bytes: int
    cpu_s: float


def measure_usage(command: Sequence[str], environment: Mapping[str, str], stderr: IO[str]) -> Usage:
    """Run a command to its end, without its output, and measure what it took.

    Args:
        command: Program and arguments.
        environment: All it sees of the environment.
        stderr: File that what it says of errors goes to.
    """
    with tempfile.TemporaryFile("w+") as said:
        launcher = [sys.executable, "-I", "-S", __file__, str(said.fileno()), *command]
        subprocess.run(
            launcher,
            env=dict(environment),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=(said.fileno(),),
            check=True,
        )
        said.seek(0)
        status, peak_memory_bytes, cpu_s = said.read().split()
    return Usage(int(status), int(peak_memory_bytes), float(cpu_s))


def _launch(arguments: Sequence[str]) -> None:
    """Run ``arguments[1:]`` and write what it took to the open file ``arguments[0]``."""
    process = subprocess.Popen(arguments[1:])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # Linux counts memory in kilobytes.
    found = (process.returncode, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime)
    os.write(int(arguments[0]), " ".join(map(str, found)).encode())


if __name__ == "__main__":
    _launch(sys.argv[1:])
