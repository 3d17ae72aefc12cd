"""A cluster that is not there, is something else, or starts slowly: one clear error, soon."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rdm_batch.cluster.connect import connected
from rdm_batch.errors import ClusterError

LIMIT_S = 15.0


def failure(address: str) -> ClusterError:
    """Join what cannot be joined, in time."""
    started = time.monotonic()
    with pytest.raises(ClusterError) as caught, connected(address):
        pytest.fail(f"{address} was joined")
    assert time.monotonic() - started < LIMIT_S
    return caught.value


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever fails, nothing else is printed, by Ray's own libraries neither."""
    yield
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


@pytest.fixture
def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def mute() -> Iterator[int]:
    """Give the port of a service that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


class _Page(http.server.BaseHTTPRequestHandler):
    def log_message(self, format: str, *_: Any) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nothing_listens_there(scheme: str, free_port: int) -> None:
    error = failure(f"{scheme}127.0.0.1:{free_port}")
    assert "refused" in error.found
    assert "ray start --head" in error.action


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_listens_never_answers(scheme: str, mute: int) -> None:
    assert "no answer within" in failure(f"{scheme}127.0.0.1:{mute}").found


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_listens_is_no_ray(scheme: str, web_server: int) -> None:
    assert "not a Ray" in failure(f"{scheme}127.0.0.1:{web_server}").found


def test_a_network_that_swallows_packets() -> None:
    failure("10.255.255.1:6379")


def test_a_host_without_an_address() -> None:
    assert "has no address" in failure("no-such-host.invalid:6379").found


def test_the_last_cluster_of_this_machine_has_gone(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
    error = failure("auto")
    assert "refused" in error.found
    assert "RAY_ADDRESS" in error.action


@pytest.mark.parametrize(
    "address",
    [
        *("cluster", "http://127.0.0.1:8265", "127.0.0.1", "127.0.0.1:", "127.0.0.1:ray", ":6379"),
        *("", "127.0.0.1:0", "127.0.0.1:70000", "ray://", "ray://head", "a b:6379", "host:1:2"),
    ],
)
def test_what_is_no_address(address: str) -> None:
    error = failure(address)
    assert "HOST:6379" in error.needed
    if address.startswith("http"):
        assert "dashboard" in error.found


def test_a_password_in_an_address_is_not_repeated() -> None:
    assert "planted" not in str(failure("http://user:planted@127.0.0.1:8265"))


class TestSlowStart:
    """A busy machine: Ray gives up after half a minute, and says so with a bare Exception."""

    @pytest.fixture
    def starts(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Replace the start of Ray; gives what each attempt raises, first one first."""
        import ray

        outcomes: list[Any] = []

        def init(**_: object) -> None:
            outcome = outcomes.pop(0)
            if outcome is not None:
                raise outcome

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        return outcomes

    def test_is_tried_once_more(self, starts: list[Any]) -> None:
        starts += [Exception("The current node timed out during startup."), None]
        with connected("local"):
            assert starts == []

    def test_is_told_with_other_advice_than_what_was_done(self, starts: list[Any]) -> None:
        starts += [Exception("The current node timed out during startup."), ValueError("slow")]
        error = failure("local")
        assert "twice" in error.found
        assert "--address none" in error.action
        assert "--address local" not in error.action

    def test_leaves_nothing_of_the_first_attempt(
        self, starts: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import ray

        begun: list[subprocess.Popen[bytes]] = []

        def init(**_: object) -> None:
            begun.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
            raise Exception("The current node timed out during startup.")

        monkeypatch.setattr(ray, "init", init)
        failure("local")
        assert len(begun) == 2
        # Whoever ended them has also collected their exit statuses.
        assert not any(psutil.pid_exists(process.pid) for process in begun)
        for process in begun:
            process.wait(timeout=5)


class TestToken:
    """The Ray started here is protected by a token that nobody else knows and nothing keeps."""

    @pytest.fixture(autouse=True)
    def forgotten(self) -> Iterator[None]:
        """Let Ray read its variables again once they are as before, for the tests that follow."""
        yield
        from rdm_batch.cluster import ray_start

        ray_start._read_again()

    @pytest.fixture
    def seen(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> list[tuple[str | None, str | None]]:
        """Record mode and token that each start of Ray meets, in a fresh home."""
        import ray

        monkeypatch.setenv("HOME", str(tmp_path))
        seen: list[tuple[str | None, str | None]] = []

        def init(**_: object) -> None:
            environment = os.environ
            seen.append((environment.get("RAY_AUTH_MODE"), environment.get("RAY_AUTH_TOKEN")))

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        return seen

    @pytest.mark.parametrize("mode", [None, "token"])
    def test_is_made_for_each_start(
        self,
        seen: list[tuple[str | None, str | None]],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        mode: str | None,
    ) -> None:
        from ray._private.authentication.authentication_utils import is_token_auth_enabled

        monkeypatch.delenv("RAY_AUTH_MODE")
        if mode is not None:
            monkeypatch.setenv("RAY_AUTH_MODE", mode)
        before = dict(os.environ)
        for _ in range(2):
            with connected("local"):
                assert is_token_auth_enabled()
            assert dict(os.environ) == before
        assert is_token_auth_enabled() == (mode == "token")
        (first_mode, first), (second_mode, second) = seen
        assert (first_mode, second_mode) == ("token", "token")
        assert first is not None
        assert second is not None
        assert first != second
        assert len(first) >= 32
        assert list(tmp_path.iterdir()) == []

    def test_is_left_out_where_it_was_switched_off(
        self, seen: list[tuple[str | None, str | None]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with connected("local"):
            pass
        assert seen == [("disabled", None)]
