"""Encode and store shards in other processes, away from the thread that keeps a GPU busy.

Encoding holds the interpreter for some milliseconds an image, in which nothing is launched.
Processes are started plainly and talked to over a pipe: whatever ends this process closes the
pipe and so ends them, and nothing is left in shared memory.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import weakref
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path

import numpy as np

from rdm_batch.errors import ClusterError
from rdm_batch.storage.drawn_shard import DrawnShard
from rdm_batch.storage.manifest import SampleSetHeader, ShardEntry

_MAX_LOST = 2
"""Times a shard is given to another process when its own has died."""
_END_S = 5.0
"""Time an idle process has to end, seconds."""


class Encoders:
    """Some processes that encode and store the shards of one set; they start in the background.

    Safe to use from several threads.

    Args:
        uri: Where the set is.
        header: The set's.
        count: How many processes, at least 1.
    """

    def __init__(self, uri: str, header: SampleSetHeader, count: int) -> None:
        self._job = uri, header
        self._free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all = [_Process(*self._job) for _ in range(count)]
        for process in self._all:
            self._free.put(process)
        # Whether this is closed, forgotten or the interpreter ends.
        self._end = weakref.finalize(self, _end, self._all)

    def commit(self, drawn: DrawnShard) -> ShardEntry:
        """Encode and store a shard as ``DrawnShard.commit`` does, as soon as a process is free.

        Raises:
            SampleSetError: The rows are not the planned ones, or the store refuses.
            ClusterError: Processes die with this shard.
        """
        process = self._free.get()
        try:
            for lost in range(_MAX_LOST + 1):
                try:
                    return process.commit(drawn)
                except (EOFError, OSError) as error:
                    ended = process.end()
                    if not self._end.alive:
                        raise ClusterError(
                            f"shard {drawn.shard}", "its encoder was closed before it was stored"
                        ) from error
                    if lost == _MAX_LOST:
                        raise ClusterError(
                            f"shard {drawn.shard}",
                            f"its encoder's process died {lost + 1} times, last {_how(ended)}",
                            "memory for a shard of images in every encoder",
                            "lower output.shard_size, or set cluster.encoders_per_head 0",
                        ) from error
                    # Doing it again is harmless, even where it was stored already.
                    self._all.remove(process)
                    process = _Process(*self._job)
                    self._all.append(process)
            raise AssertionError("a shard is written or given up")
        finally:
            self._free.put(process)

    def close(self) -> None:
        """End the processes; harmless if done twice."""
        self._end()


class _Process:
    """One process, and the connection it is told of shards by."""

    def __init__(self, uri: str, header: SampleSetHeader) -> None:
        self._job = uri, header
        self._connection, theirs = Pipe()
        # The package is found as it was here, wherever that was said.
        found = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        with theirs:
            self._program = subprocess.Popen(
                [sys.executable, "-m", "rdm_batch.storage.encoder_process", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found))},
            )
        self._told = False

    def commit(self, drawn: DrawnShard) -> ShardEntry:
        """Send a shard and wait for its entry.

        Raises:
            EOFError: The process died, as for OSError.
        """
        if not self._told:
            self._connection.send(self._job)
            self._told = True
        rest = {key: value for key, value in vars(drawn).items() if key != "images"}
        images = np.ascontiguousarray(drawn.images)
        self._connection.send((images.shape, rest))
        # As they are: to pickle them would copy them, holding the interpreter.
        self._connection.send_bytes(images.data.cast("B"))
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        entry: ShardEntry = answer
        return entry

    def end(self) -> int | None:
        """Let the process end, or make it; give its exit status, None if it has to be killed."""
        self._connection.close()
        try:
            return self._program.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait()
            return None


def _end(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.end()


def _how(status: int | None) -> str:
    if status is None:
        return "without an answer"
    return f"by signal {-status}" if status < 0 else f"with status {status}"
