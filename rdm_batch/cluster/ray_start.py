"""Start a Ray here or join one that runs: protected, within a known time, or one clear error."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

# `ray_cluster` imports this module after it has set what Ray reads while it is imported.
import ray

from rdm_batch.cluster.ray_probe import RAYLET, look_for
from rdm_batch.errors import ClusterError

LOCAL = "local"
"""The address that means: a Ray started here, for this process alone."""

_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_ATTEMPTS = 2
_END_S = 5.0
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
_HERE_ALONE: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}


@contextmanager
def started_or_joined(address: str) -> Iterator[None]:
    """Start or join Ray for the duration of a block; see ``connect.connected``."""
    if ray.is_initialized():
        raise ClusterError(
            "Ray", "this process has joined one already", "", "call ray.shutdown() before"
        )
    with own_token() if address == LOCAL else contextlib.nullcontext():
        if address == LOCAL:
            _start()
        else:
            _join(address)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def own_token() -> Iterator[None]:
    """Protect the Ray started in a block by a token that only its processes know.

    Left to itself Ray would store one in the home folder, for which every cluster started from
    there would ask ever after. RAY_AUTH_MODE=disabled is obeyed.
    """
    if os.environ.get(_MODE, "token").lower() != "token":
        yield
        return
    before = {name: os.environ.get(name) for name in (_MODE, _TOKEN)}
    os.environ.update({_MODE: "token", _TOKEN: secrets.token_hex(32)})
    _read_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Let Ray's libraries see these variables as they are now; they look at them once."""
    RAYLET.Config.initialize("")
    RAYLET.AuthenticationTokenLoader.instance().reset_cache()


def _start() -> None:
    """Start Ray on this machine; once more where it was too slow, as on a busy machine it is."""
    reason = ""
    for _ in range(_ATTEMPTS):
        others = _children()
        try:
            ray.init(address=LOCAL, **_QUIET, **_HERE_ALONE)
            return
        except Exception as error:
            # Ray raises bare Exception when a node does not come up in time.
            reason = _in_one_line(error)
            ray.shutdown()
            _end(_children() - others)
    raise ClusterError(
        "Ray on this machine",
        f"could not be started, tried twice ({reason})",
        "",
        "run the same command again when the machine is less busy, or work without Ray: "
        "--address none",
    )


def _join(address: str) -> None:
    look_for(address)
    try:
        ray.init(address=address, **_QUIET)
    except Exception as error:
        raise ClusterError(
            f"Ray at {address}",
            f"answers, but could not be joined ({_in_one_line(error)})",
            "the same versions of Ray and Python, and a node of the cluster on this machine",
            "from elsewhere use `ray job submit`",
        ) from None


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end(processes: set[psutil.Process]) -> None:
    """End what a failed start has left running."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=_END_S)
