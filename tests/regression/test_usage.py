from __future__ import annotations

import os
import signal
import sys
import tempfile

import numpy as np
import pytest

from rdm_batch.regression.memory import peak_resident
from rdm_batch.regression.usage import Usage, measure_usage

_HOLD = "held = bytearray(int({})); held[::4096] = bytes(len(held[::4096]))"


def _measure(program: str) -> tuple[Usage, str]:
    with tempfile.TemporaryFile("w+") as said:
        usage = measure_usage([sys.executable, "-c", program], os.environ, said)
        said.seek(0)
        return usage, said.read()


def test_what_the_measuring_process_holds_is_not_counted() -> None:
    held = np.ones(50_000_000)
    peak = peak_resident()
    assert peak is not None
    assert peak > held.nbytes
    usage, _ = _measure("pass")
    assert 1e6 < usage.peak_memory_bytes < 1e8
    assert usage.status == 0


@pytest.mark.parametrize(
    "program",
    [
        _HOLD,
        "import subprocess, sys; code = '" + _HOLD + "'; "
        "subprocess.run([sys.executable, '-c', code])",
    ],
)
def test_memory_of_a_command_and_of_its_children_is_counted(program: str) -> None:
    usage, _ = _measure(program.format("3e8"))
    assert 3e8 < usage.peak_memory_bytes < 4e8


def test_processor_time_is_counted_and_sleep_is_not() -> None:
    work = "import time; end = time.process_time() + 0.3; time.sleep(0.3)\n"
    usage, _ = _measure(work + "while time.process_time() < end: pass")
    assert 0.3 < usage.cpu_s < 3


@pytest.mark.parametrize(
    ("program", "status"),
    [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL)],
)
def test_how_it_ended_is_told(program: str, status: int) -> None:
    assert _measure(program)[0].status == status


def test_what_it_says_of_errors_is_kept() -> None:
    assert _measure("import sys; print('so it is', file=sys.stderr)")[1] == "so it is\n"
