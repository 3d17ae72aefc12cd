"""The processes of one run: started, followed, killed, and looked for afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path

import psutil

from tests.ray_kit import ROOT

SERVERS = {"gcs": "gcs_server", "raylet": "raylet"}


class Family:
    """A process and everything that descends from it.

    Args:
        pid: The first process: the driver.
    """

    def __init__(self, pid: int) -> None:
        self.driver = psutil.Process(pid)
        self.known: dict[psutil.Process, float] = {self.driver: 0.0}

    def look(self) -> None:
        """Find descendants that are new, while those that started them still live."""
        for process in list(self.known):
            with contextlib.suppress(psutil.Error):
                for child in process.children(recursive=True):
                    self.known.setdefault(child, time.monotonic())

    def members(self, victim: str) -> list[psutil.Process]:
        """Find the living processes a victim's name stands for."""
        if victim == "driver":
            return [self.driver] if alive(self.driver) else []
        found = []
        for process in self.known:
            with contextlib.suppress(psutil.Error):
                if not alive(process):
                    continue
                if victim in SERVERS:
                    if process.name() == SERVERS[victim]:
                        found.append(process)
                elif " ".join(process.cmdline()).startswith(f"ray::{victim}"):
                    found.append(process)
        return found

    def living(self) -> list[psutil.Process]:
        """List who is still there."""
        return [process for process in self.known if alive(process)]


def alive(process: psutil.Process) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def kill(process: psutil.Process) -> bool:
    """End a process as a crash would; False when it was gone already."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.Error:
        return False
    return True


class Started:
    """A command that runs: a program of its own, or a copy of this process that calls it.

    A copy saves the seconds of importing, and is otherwise the same command.

    Args:
        module: Module with a ``main``.
        arguments: Of the command.
        log: File that takes what it prints.
        folder: Its temporary files.
        copy: Whether it is a copy of this process.
    """

    def __init__(
        self, module: str, arguments: list[str], log: Path, folder: Path, copy: bool
    ) -> None:
        self.log = log
        folder.mkdir(parents=True, exist_ok=True)
        self._program: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        if copy:
            self.pid = _copy(module, arguments, log, folder)
            return
        with log.open("wb") as printed:
            self._program = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "TMPDIR": str(folder)},
            )
        self.pid = self._program.pid

    def status(self) -> int | None:
        """Give the exit status, negative for a signal; None while it runs."""
        if self._program is not None:
            return self._program.poll()
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


def _copy(module: str, arguments: list[str], log: Path, folder: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        with log.open("wb") as printed:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
        os.environ["TMPDIR"] = str(folder)
        tempfile.tempdir = None
        os.chdir(ROOT)
        sys.argv = [module, *arguments]
        status = import_module(module).main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
