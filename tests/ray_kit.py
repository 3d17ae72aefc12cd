"""Run jobs as users do, in their own processes, and find the actors that serve them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
JOB_LIMIT_S = 240


@contextmanager
def started_job(job: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a job in a process of its own; end it when the block ends."""
    command = [sys.executable, "-m", "rdm_batch.run", str(job), *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # A shell's background processes ignore Ctrl-C, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def run_job(job: Path, *arguments: str) -> str:
    """Run a job to its end; give what it printed."""
    with started_job(job, *arguments) as process:
        printed, _ = process.communicate(timeout=JOB_LIMIT_S)
    assert process.returncode == 0, printed
    return printed


def shard_digests(out: Path) -> dict[str, str]:
    """Hash every stored shard."""
    files = sorted((out / "data").glob("*.parquet"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def wait_for_shards(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until at least so many shards are committed, while the job still runs."""
    deadline = time.monotonic() + JOB_LIMIT_S
    while len(list((out / "_shards").glob("*.json"))) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no shard was committed in time"
        time.sleep(0.02)


def actor_processes(class_name: str, ray_folder: Path) -> list[int]:
    """Find the processes of actors of one class, in the cluster whose files lie in a folder.

    An idle actor is titled ``ray::HeadWorker``, a busy one ``ray::HeadWorker.call``.
    """
    found = []
    for process in psutil.process_iter():
        try:
            title = " ".join(process.cmdline())
            if not title.startswith(f"ray::{class_name}"):
                continue
            parent = process.parent()
            if parent is not None and str(ray_folder) in " ".join(parent.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return sorted(found)


def kill_one(class_name: str, ray_folder: Path) -> int:
    """End one actor as a crash would, and give its process id."""
    process_id = actor_processes(class_name, ray_folder)[0]
    os.kill(process_id, signal.SIGKILL)
    return process_id
