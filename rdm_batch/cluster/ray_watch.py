"""Notice within seconds that the Ray this process works on is gone, and leave none of it behind.

Ray itself goes on trying for a minute when its control process (``gcs_server``) has died and then
ends the program, prints the logs of a node process (``raylet``) that has died, and leaves
agents running in both cases. Here such a loss becomes one ``ClusterError``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# `ray_cluster` imports this module after it has set what Ray reads while it is imported.
import ray

from rdm_batch.cluster.ray_reaper import Reaper
from rdm_batch.cluster.ray_words import few_words
from rdm_batch.errors import ClusterError, RdmBatchError

_LOOK_EVERY_S = 0.5
_REMOTE_LOOK_EVERY_S = 2.0
_UNREACHABLE_S = 40.0
"""How long a cluster elsewhere may not answer; after 60 s Ray itself would end this process."""
_LEAVE_WITHIN_S = 15.0
"""How long a call into Ray may still hang after the loss; no exception reaches it there."""
_END_WITHIN_S = 5.0
_STARTS_AGAIN_WITHIN_S = 6.0
"""How long a start may be without a process that has died; a second try has its own by then, and
Ray itself would end this process after ``_RECONNECT_S``."""
_RECONNECT_S = 10
"""How long processes of a Ray started here look for its control process, which never comes back."""

_RECONNECT_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
_VITAL = ("gcs_server", "raylet")


class RayWatch:
    """Watch one Ray for as long as this process works on it.

    Args:
        address: What was joined, for messages.
        local: Whether it was started here, so that all of its processes are ours.
    """

    def __init__(self, address: str, local: bool) -> None:
        self._where = f"Ray at {address}"
        self._local = local
        self._before = set(psutil.Process().children()) if local else set()
        self._known: set[psutil.Process] = set()
        self._vital: dict[psutil.Process, str] = {}
        self._reaper = Reaper() if local else None
        self._lost: str | None = None
        self._left = threading.Event()
        self._notes: list[str] = []

    def check(self) -> None:
        """Raise what the loss means, once there is one.

        Raises:
            ClusterError: Ray is gone.
        """
        if self._lost is not None:
            raise self._error(self._lost)

    @property
    def lost(self) -> bool:
        """Tell whether Ray is gone."""
        return self._lost is not None

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Watch while Ray starts here, where no exception tells of a process that has died."""
        started = threading.Event()
        if self._local:
            threading.Thread(
                target=self._watch_start, args=(started,), name="watch Ray start", daemon=True
            ).start()
        try:
            yield
        finally:
            started.set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch for the duration of a block, from when Ray has started."""
        look = self._look_at_processes() if self._local else _look_from_afar()
        interval_s = _LOOK_EVERY_S if self._local else _REMOTE_LOOK_EVERY_S
        thread = threading.Thread(
            target=self._watch, args=(look, interval_s), name="watch Ray", daemon=True
        )
        thread.start()
        try:
            yield
        except Exception as error:
            # Whatever a call into Ray makes of the loss: the loss is what happened.
            if not isinstance(error, RdmBatchError):
                self._left.wait(2 * interval_s)
                if self._lost is not None:
                    raise self._error(self._lost) from None
            raise
        finally:
            self._left.set()
            thread.join(interval_s)
            if self.lost:
                # Before Ray is told to end, which would wait for what cannot answer any more.
                self.end_processes()

    def note(self, text: str) -> None:
        """Take what a process of Ray reports, to be printed unless Ray turns out to be gone."""
        self._notes.append(text)

    def end_processes(self) -> None:
        """End what is left of a Ray that was started here, and nothing else."""
        if not self._local:
            return
        self._remember()
        known = list(self._known)
        for process in known:
            with contextlib.suppress(psutil.Error):
                process.kill()
        deadline = time.monotonic() + _END_WITHIN_S
        while any(map(_alive, known)) and time.monotonic() < deadline:
            time.sleep(0.02)

    def dismiss(self) -> None:
        """Let go of what would end the processes after this one's death: they have ended."""
        if self._reaper is not None:
            self._reaper.dismiss()

    def _watch(self, look: Callable[[], str | None], interval_s: float) -> None:
        while not self._left.wait(interval_s):
            notes, self._notes = self._notes, []
            self._lost = look()
            for note in notes if self._lost is None else ():
                print(f"Ray: {note}", file=sys.stderr, flush=True)
            if self._lost is not None:
                if not self._left.wait(_LEAVE_WITHIN_S):
                    self._leave(self._lost)
                return

    def _watch_start(self, started: threading.Event) -> None:
        lacking_since: dict[str, float] = {}
        while not started.wait(_LOOK_EVERY_S):
            self._remember()
            for name in set(self._vital.values()):
                if any(_alive(p) for p, found in self._vital.items() if found == name):
                    lacking_since.pop(name, None)
                    continue
                since = lacking_since.setdefault(name, time.monotonic())
                if time.monotonic() - since > _STARTS_AGAIN_WITHIN_S:
                    self._leave(f"its process {name} has died while it started")

    def _leave(self, found: str) -> None:
        """End this process, which waits in a call that will never return."""
        self.end_processes()
        print(f"error: {self._error(found)}", file=sys.stderr, flush=True)
        os._exit(1)

    def _error(self, found: str) -> ClusterError:
        return ClusterError(
            self._where, found, "", "what is stored is safe: run the same command again"
        )

    def _look_at_processes(self) -> Callable[[], str | None]:
        self._remember()
        # Those of a first try that came to nothing are forgotten.
        vital = {process: name for process, name in self._vital.items() if _alive(process)}

        def look() -> str | None:
            for process, name in vital.items():
                if not _alive(process):
                    return f"its process {name} has died"
            # What starts later is found while its parents still name it.
            self._remember()
            return None

        return look

    def _remember(self) -> None:
        """Note the processes of Ray: those it started for us, and all that they have started."""
        package = str(Path(ray.__file__).parent)
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if process not in self._before and package in " ".join(process.cmdline()):
                    self._known.add(process)
        for process in list(self._known):
            with contextlib.suppress(psutil.Error):
                self._known.update(process.children(recursive=True))
        if self._reaper is not None:
            for process in list(self._known):
                self._reaper.tell(process.pid)
        for process in self._known - self._vital.keys():
            if (name := _name(process)) in _VITAL:
                self._vital[process] = name


@contextmanager
def watched(address: str, local: bool) -> Iterator[RayWatch]:
    """Prepare for a Ray that is started or joined, and ended, within a block.

    Args:
        address: What is joined, for messages.
        local: Whether it is started here; what is left of its processes ends with the block.
    """
    global _current
    watch = RayWatch(address, local)
    reconnect_s = str(_RECONNECT_S) if local else None
    with few_words(watch.note), _variable(_RECONNECT_VARIABLE, reconnect_s):
        _current = watch
        try:
            yield watch
        finally:
            _current = None
            watch.end_processes()
            watch.dismiss()


def check_ray() -> None:
    """Raise the loss of the Ray this process has joined, once there is one.

    Raises:
        ClusterError: It is gone.
    """
    if _current is not None:
        _current.check()


def ray_is_lost() -> bool:
    """Tell whether the Ray this process has joined is gone."""
    return _current is not None and _current.lost


_current: RayWatch | None = None
"""Ray is joined by a process as a whole; so is this."""


def _look_from_afar() -> Callable[[], str | None]:
    """Look at a cluster as this process reaches it: by its control process and its own node."""
    if ray.util.client.ray.is_connected():
        return lambda: None  # by a server that stands between; Ray's own client notices its loss
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    own, answered = context.get_node_id(), time.monotonic()

    def look() -> str | None:
        nonlocal answered
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REMOTE_LOOK_EVERY_S).close()
        except OSError:
            silent_s = time.monotonic() - answered
            return f"has not answered for {silent_s:.0f} s" if silent_s > _UNREACHABLE_S else None
        answered = time.monotonic()
        with contextlib.suppress(Exception):  # the next look tells
            if any(node["NodeID"] == own and not node["Alive"] for node in ray.nodes()):
                return "the node of this process has died"
        return None

    return look


@contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """Set a variable for processes that are started in a block, unless it is set already."""
    if value is None or name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""
