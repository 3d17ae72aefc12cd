"""Ask whether a Ray answers at an address, before Ray itself tries.

Ray goes on trying for minutes where nothing answers, and prints warnings meanwhile. A question
with a deadline tells at once what is wrong.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from typing import Any, NamedTuple

# `ray_cluster` imports this module after it has set what Ray reads while it is imported.
import grpc
import ray._raylet
from ray._private import services
from ray.core.generated import gcs_service_pb2, ray_client_pb2

from rdm_batch.errors import ClusterError

AUTO = "auto"
"""The address that means: the Ray that runs on this machine, or that RAY_ADDRESS names."""

RAYLET: Any = ray._raylet
"""Ray's compiled part, which says nothing of its types."""

_ANSWER_S = 5.0
"""Longest time for a connection, and for the answer to a question, seconds."""
_LOOK_S = 12.0
"""Longest time for all of it, the look-up of the host's name included, seconds."""

_ADDRESS = re.compile(r"(?P<scheme>ray://)?(?P<host>[\w.-]+|\[[\da-fA-F:.]+\]):(?P<port>\d{1,5})")
_NEEDED = "HOST:6379, ray://HOST:10001, auto, local or none"


class _Target(NamedTuple):
    """What is to be joined: as it was asked for, as messages call it, and where it listens."""

    asked: str
    name: str
    host: str
    port: int
    client: bool

    def failure(self, found: str, action: str = "") -> ClusterError:
        """Say what is wrong with it."""
        if not action and self.asked == AUTO:
            action = "set RAY_ADDRESS to a cluster that runs, or unset it; or use --address local"
        action = action or "start it with `ray start --head`, or use --address local"
        return ClusterError(f"Ray at {self.name}", found, "", action)


def look_for(address: str) -> None:
    """Ask whether a Ray answers at an address, and lets this process in.

    Args:
        address: ``auto``, ``HOST:PORT``, or ``ray://HOST:PORT``.

    Raises:
        ClusterError: It is no address, nothing answers there in time, something else does, or
            it asks for another token.
    """
    target = _target(address)
    found: list[ClusterError | None] = []

    def look() -> None:
        try:
            _ask(target)
            found.append(None)
        except ClusterError as error:
            found.append(error)

    # In a thread, because the look-up of a name has no time limit of its own.
    thread = threading.Thread(target=look, name="look for Ray", daemon=True)
    thread.start()
    thread.join(_LOOK_S)
    if not found:
        raise target.failure(f"no answer within {_LOOK_S:g} s")
    if found[0] is not None:
        raise found[0]


def _target(address: str) -> _Target:
    name = address if address != AUTO else os.environ.get("RAY_ADDRESS") or _running_here()
    parts = _ADDRESS.fullmatch(name)
    if parts is None or not 0 < int(parts["port"]) < 1 << 16:
        page = name.startswith(("http://", "https://"))
        raise ClusterError(
            "RAY_ADDRESS" if address == AUTO else "--address",
            # The text itself may hold a password.
            "is a web page, perhaps of the dashboard" if page else "is no address of a cluster",
            _NEEDED,
        )
    host, client = parts["host"].strip("[]"), parts["scheme"] is not None
    if not client:
        # Ray takes localhost for the address by which other machines know this one.
        host = services.resolve_ip_for_localhost(host)
    return _Target(address, name, host, int(parts["port"]), client)


def _running_here() -> str:
    try:
        return str(services.canonicalize_bootstrap_address_or_die(AUTO))
    except ConnectionError:
        raise ClusterError(
            "Ray on this machine",
            "none is running",
            "",
            "start one with `ray start --head`, or use --address local",
        ) from None


def _ask(target: _Target) -> None:
    try:
        socket.create_connection((target.host, target.port), _ANSWER_S).close()
    except socket.gaierror:
        raise target.failure(f"the host {target.host} has no address", "check its name") from None
    except ConnectionRefusedError:
        raise target.failure("the connection was refused") from None
    except TimeoutError:
        raise target.failure(f"no answer within {_ANSWER_S:g} s") from None
    except OSError as error:
        raise target.failure(f"cannot be reached ({error.strerror})") from None
    method, request = "NodeInfoGcsService/GetClusterId", gcs_service_pb2.GetClusterIdRequest()
    if target.client:
        ping = ray_client_pb2.ClusterInfoType.PING
        method, request = "RayletDriver/ClusterInfo", ray_client_pb2.ClusterInfoRequest(type=ping)
    host = f"[{target.host}]" if ":" in target.host else target.host
    # A cluster is not behind a web proxy; Ray does not ask one either.
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"{host}:{target.port}", options=options) as channel:
        try:
            channel.unary_unary(f"/ray.rpc.{method}")(
                request.SerializeToString(), timeout=_ANSWER_S, metadata=_token(target)
            )
        except grpc.RpcError as error:
            raise _refusal(target, error.code()) from None


def _token(target: _Target) -> list[tuple[str, str]]:
    """Give the header that Ray itself would send."""
    # A token in the home folder counts without RAY_AUTH_MODE, but only for the Ray found here.
    found_here = target.asked == AUTO and "RAY_AUTH_MODE" not in os.environ
    header = RAYLET.AuthenticationTokenLoader.instance().get_token_for_http_header(
        ignore_auth_mode=found_here
    )
    return [(name.lower(), value) for name, value in header.items()]


def _refusal(target: _Target, code: Any) -> ClusterError:
    if code == grpc.StatusCode.UNAUTHENTICATED:
        given = "the token of this process is not its own" if _token(target) else "none was given"
        return target.failure(
            f"asks for a token, and {given}",
            "export RAY_AUTH_MODE=token, and put the cluster's token into ~/.ray/auth_token or a "
            "file that RAY_AUTH_TOKEN_PATH names",
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return target.failure(f"no answer within {_ANSWER_S:g} s")
    return target.failure(
        f"what listens there is not a Ray {'client server' if target.client else 'cluster'}",
        f"needed {_NEEDED}",
    )
