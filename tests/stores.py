"""Fixtures: real object stores over HTTP, and fresh locations on every kind of store.

``swift_server`` and ``moto_server`` run once per test session. ``swift_uri``,
``moto_uri`` and ``storage_uri`` (local and Swift in turn) give a test an empty location
and point the AWS environment at it.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fsspec.asyn import get_loop, sync

# Starts take 2 to 5 s; a machine that is busy with other things takes its time.
START_LIMIT_S = 150
START_TRIES = 3
SWIFT_SCRIPT = Path(__file__).parent / "fixtures" / "swift_server.py"
BUCKET = "samples"

# What a developer's own machine may hold must not decide where tests write.
ISOLATION = {
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "no_proxy": "127.0.0.1",
}


@dataclass(frozen=True)
class ObjectServer:
    """A running store: the environment that leads to it and a bucket that exists."""

    environment: dict[str, str]
    bucket: str = BUCKET

    @property
    def endpoint(self) -> str:
        return self.environment["AWS_ENDPOINT_URL"]

    def fresh_uri(self) -> str:
        return f"s3://{self.bucket}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """OpenStack Swift with its S3 gateway: real signatures, multipart uploads, paging."""
    base = tmp_path_factory.mktemp("swift")
    reason = why_not_swift(base)
    if reason:
        _cannot_run(reason)
    with run_swift(base) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[ObjectServer]:
    """A simulated S3 whose conditional writes are atomic; it accepts any key, and small parts."""
    (port,) = _free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"S3_UPLOAD_PART_MIN_SIZE": "1"},
    ) as process:
        try:
            assert _answers(port, process), "moto did not start"
            server = _server(port, "any", "any")
            _create_bucket(server)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def swift_uri(swift_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty ``s3://`` location on Swift, with the environment that leads to it."""
    return enter(swift_server, monkeypatch)


@pytest.fixture
def moto_uri(moto_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty ``s3://`` location on moto, with the environment that leads to it."""
    return enter(moto_server, monkeypatch)


@pytest.fixture(params=["local", "swift"])
def storage_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty location: a folder and, in turn, a prefix on Swift."""
    if request.param == "local":
        return str(tmp_path / "store")
    uri: str = request.getfixturevalue("swift_uri")
    return uri


def enter(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point the environment at a server and give an empty location on it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server.fresh_uri()


def why_not_swift(folder: Path) -> str:
    """Say what keeps Swift from running with its data in a folder; empty when nothing does."""
    if importlib.util.find_spec("swift") is None:
        return "the package swift is not installed"
    if not _has_extended_attributes(folder):
        return f"{folder} is on a file system without extended attributes"
    return ""


@contextmanager
def run_swift(base: Path) -> Iterator[ObjectServer]:
    """Run Swift with its data below an empty folder until the block ends."""
    for attempt in range(1, START_TRIES + 1):
        # Another process can take a port between its choice and its use: choose again.
        ports = _free_ports(4)
        command = [sys.executable, str(SWIFT_SCRIPT), str(base / str(attempt)), *map(str, ports)]
        (base / str(attempt)).mkdir()
        with (
            (base / f"{attempt}.log").open("wb") as log,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log) as process,
        ):
            try:
                if not all(_answers(port, process) for port in ports):
                    if process.poll() is None:
                        break
                    continue
                server = _server(ports[0], "test:tester", "testing")
                _create_bucket(server)
                yield server
                return
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(timeout=30)
    logs = "\n".join(path.read_text() for path in sorted(base.rglob("*.log")))
    raise RuntimeError(f"Swift did not start in {START_TRIES} tries:\n{logs[-4000:]}")


def _server(port: int, key: str, secret: str) -> ObjectServer:
    return ObjectServer(
        {
            **ISOLATION,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
        }
    )


def _create_bucket(server: ObjectServer) -> None:
    """Create the bucket with a client of its own, so that the one under test stays untouched."""
    from aiobotocore.session import AioSession

    async def create() -> None:
        session = AioSession()
        async with session.create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=server.endpoint,
            aws_access_key_id=server.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=server.environment["AWS_SECRET_ACCESS_KEY"],
        ) as client:
            await client.create_bucket(Bucket=server.bucket)

    sync(get_loop(), create)


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _has_extended_attributes(folder: Path) -> bool:
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"1")
    except (OSError, AttributeError):
        return False
    finally:
        probe.unlink()
    return True


def _cannot_run(reason: str) -> None:
    """Skip on a developer's machine; a check that CI relies on fails instead."""
    message = f"no object store to test against: {reason}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
