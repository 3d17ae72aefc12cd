"""The servers of the tests end with the tests, however these end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stores import run_swift, why_not_swift

HOLDER = """
import sys, time
from pathlib import Path
from tests.stores import run_swift
with run_swift(Path(sys.argv[1])) as server:
    print(server.endpoint, flush=True)
    time.sleep(600)
"""


def _servers(base: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(base).encode() in arguments and b"swift_server" in arguments:
            found.append(int(process.name))
    return found


def _wait_until_gone(base: Path) -> list[int]:
    limit = time.monotonic() + 30
    while _servers(base) and time.monotonic() < limit:
        time.sleep(0.05)
    return _servers(base)


def test_swift_ends_with_its_block(tmp_path: Path) -> None:
    if why_not_swift(tmp_path):
        pytest.skip(why_not_swift(tmp_path))
    with run_swift(tmp_path):
        assert len(_servers(tmp_path)) == 5
    assert _wait_until_gone(tmp_path) == []


@pytest.mark.parametrize("whole_group", [False, True])
def test_swift_ends_when_the_session_is_killed(tmp_path: Path, whole_group: bool) -> None:
    if why_not_swift(tmp_path):
        pytest.skip(why_not_swift(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"http://127.0.0.1:")
        assert len(_servers(tmp_path)) == 5
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    assert _wait_until_gone(tmp_path) == []
