"""A planted secret is found in nothing that is printed or written, whatever fails."""

from __future__ import annotations

import io
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from rdm_batch.errors import RdmBatchError
from rdm_batch.storage.object_store import check_writable, local_path, open_store
from rdm_batch.storage.uri import redact, server_name
from tests.fixtures.lying_proxy import LIES, Lie, LyingProxy
from tests.ray_kit import ROOT
from tests.stores import ISOLATION, ObjectServer
from tests.worlds import World

SECRET = "hush4711"
KEYS = {"AWS_ACCESS_KEY_ID": f"AK{SECRET}", "AWS_SECRET_ACCESS_KEY": SECRET}
DEAD = "127.0.0.1:9"


def endpoint(url: str) -> dict[str, str]:
    return {**KEYS, "AWS_ENDPOINT_URL": url}


def proxied(url: str) -> dict[str, str]:
    named = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), url)
    return {**endpoint("http://store.example:9000"), **named, "no_proxy": "", "NO_PROXY": ""}


# What stands for {refusing} is a server that answers every request with 407.
ENVIRONMENTS = {
    "endpoint with a password": endpoint(f"http://me:{SECRET}@{DEAD}/"),
    "endpoint with a password and a query": endpoint(f"http://me:{SECRET}@{DEAD}/?{SECRET}"),
    "endpoint with a query": endpoint(f"http://{DEAD}/?key={SECRET}"),
    "endpoint with a fragment": endpoint(f"http://{DEAD}/#{SECRET}"),
    "endpoint with a path": endpoint(f"http://{DEAD}/{SECRET}"),
    "endpoint with a slash in its password": endpoint(f"http://me:{SECRET}/x@{DEAD}"),
    "endpoint without a scheme": endpoint(f"me:{SECRET}@{DEAD}"),
    "endpoint of another scheme": endpoint(f"{SECRET}://{DEAD}"),
    "endpoint with a strange port": endpoint(f"http://127.0.0.1:{SECRET}"),
    "endpoint that is encoded": endpoint(f"http://me%3A{SECRET}%40{DEAD}"),
    "endpoint of S3 alone": {**KEYS, "AWS_ENDPOINT_URL_S3": f"http://me:{SECRET}@{DEAD}/?k"},
    "endpoint of a file": {**KEYS, "AWS_CONFIG_FILE": "{endpoint file}"},
    "dead endpoint": endpoint(f"http://{DEAD}"),
    "dead proxy": proxied(f"http://me:{SECRET}@{DEAD}"),
    "refusing proxy": proxied(f"http://me:{SECRET}@{{refusing}}"),
    "proxy without a scheme": proxied(f"me:{SECRET}@{DEAD}"),
    "proxy that is no URL": proxied(f"http://me:{SECRET}@:x:y"),
    "proxy of another scheme": proxied(f"{SECRET}://me:{SECRET}@{DEAD}"),
    "profile": {"AWS_PROFILE": SECRET, "AWS_ENDPOINT_URL": f"http://{DEAD}"},
    "session token": {**endpoint("http://{refusing}"), "AWS_SESSION_TOKEN": SECRET},
    "session token with a line break": {
        **endpoint("http://{refusing}"),
        "AWS_SESSION_TOKEN": f"a\r\n{SECRET}: b",
    },
    "key that is no text": {**endpoint("http://{refusing}"), "AWS_ACCESS_KEY_ID": f"é\n{SECRET}"},
    "region that is none": {**endpoint(f"http://{DEAD}"), "AWS_DEFAULT_REGION": f"a b/{SECRET}@"},
    "retries that are no number": {**endpoint(f"http://{DEAD}"), "AWS_MAX_ATTEMPTS": SECRET},
    "bundle that is not there": {
        **endpoint(f"https://{DEAD}"),
        "AWS_CA_BUNDLE": f"/nowhere/{SECRET}",
    },
    "garbage in the config file": {
        **endpoint(f"http://{DEAD}"),
        "AWS_CONFIG_FILE": "{garbage file}",
    },
    "bytes in the credentials file": {
        "AWS_ENDPOINT_URL": f"http://{DEAD}",
        "AWS_SHARED_CREDENTIALS_FILE": "{bytes file}",
    },
    "wrong types in the config file": {
        **endpoint(f"http://{DEAD}"),
        "AWS_CONFIG_FILE": "{wrong types file}",
    },
    "a pipe as config file": {**endpoint(f"http://{DEAD}"), "AWS_CONFIG_FILE": "{pipe}"},
    "a pipe as credentials file": {
        "AWS_ENDPOINT_URL": f"http://{DEAD}",
        "AWS_SHARED_CREDENTIALS_FILE": "{pipe}",
    },
    "an endless config file": {**endpoint(f"http://{DEAD}"), "AWS_CONFIG_FILE": "/dev/zero"},
    "a folder as config file": {**endpoint(f"http://{DEAD}"), "AWS_CONFIG_FILE": "/"},
    "a config file that is not there": {
        **endpoint(f"http://{DEAD}"),
        "AWS_CONFIG_FILE": f"/nowhere/{SECRET}",
    },
}

REQUESTS: dict[str, Callable[[], object]] = {
    "read": lambda: open_store("s3://bucket/a").read_bytes("b"),
    "write": lambda: open_store("s3://bucket/a").write_bytes("b", b"x"),
    "write if absent": lambda: open_store("s3://bucket/a").write_bytes_if_absent("b", b"x"),
    "list": lambda: open_store("s3://bucket/a").list_objects(),
    "stream": lambda: open_store("s3://bucket/a").open_read("b"),
    "check": lambda: check_writable("s3://bucket/a"),
    "download": lambda: local_path("s3://bucket/a"),
}

LOCATIONS = (
    f"s3://AKIA:{SECRET}@bucket/a",
    f"s3://AKIA:ab/{SECRET}@bucket/a",
    f"s3://AKIA:{SECRET}",
    f"s3://AKIA:{SECRET}/a",
    f"s3://{SECRET}@bucket/a",
    f"s3://bucket/a?X-Amz-Signature={SECRET}",
    f"s3://bucket/a?x=1&X-Amz-Credential={SECRET}",
    f"https://me:{SECRET}@host/a",
    f"https://me:x/{SECRET}@host/a",
    f"https://host/a?token={SECRET}",
)


class Refusing:
    """Answer whatever comes with 407 and a page that repeats it."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                asked = connection.recv(65536)
                page = b"<Error><Code>" + asked[:4000] + b"</Code></Error>"
                head = (
                    f"HTTP/1.1 407 No\r\nContent-Length: {len(page)}\r\nConnection: close\r\n\r\n"
                )
                connection.sendall(head.encode() + page)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("aws")
    refusing = Refusing()
    content = {
        "endpoint file": f"[default]\nendpoint_url = http://me:{SECRET}@{DEAD}/?{SECRET}\n".encode(),
        "garbage file": f"{SECRET}\n[[[\n= {SECRET}\n".encode(),
        "bytes file": bytes(range(256)) + SECRET.encode(),
        "wrong types file": (
            f"[default]\nmax_attempts = {SECRET}\nretry_mode = {SECRET}\ns3 = {SECRET}\n"
            f"endpoint_url = {SECRET}\nregion = [{SECRET}\n"
        ).encode(),
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe")
    yield {**{n: str(folder / n) for n in (*content, "pipe")}, "refusing": refusing.place}
    refusing.close()


def filled(environment: dict[str, str], files: dict[str, str]) -> dict[str, str]:
    for name, value in files.items():
        environment = {k: v.replace(f"{{{name}}}", value) for k, v in environment.items()}
    return environment


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_failure_shows_a_secret(
    name: str,
    files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for variable in [v for v in os.environ if v.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    for variable, value in {**ISOLATION, **filled(ENVIRONMENTS[name], files)}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path))
    monkeypatch.setattr("rdm_batch.storage.s3_requests.FIRST_WAIT_S", 0.001)
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    logging.getLogger().addHandler(handler)
    try:
        for request in REQUESTS.values():
            started = time.monotonic()
            with pytest.raises(RdmBatchError) as caught:
                request()
            shown = "".join(traceback.format_exception(caught.value))
            assert SECRET not in shown
            assert SECRET not in repr(caught.value)
            assert "During handling" not in shown
            assert "direct cause" not in shown
            assert time.monotonic() - started < 10
    finally:
        logging.getLogger().removeHandler(handler)
    assert SECRET not in logged.getvalue()
    assert SECRET not in "".join(capfd.readouterr())
    assert [path for path in tmp_path.rglob("*") if SECRET in str(path)] == []


@pytest.mark.parametrize("uri", LOCATIONS)
def test_no_location_is_shown_with_its_secret(uri: str) -> None:
    assert SECRET not in redact(uri)
    with pytest.raises(RdmBatchError) as caught:
        open_store(uri)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_locations_without_secrets_are_shown_as_they_are() -> None:
    for uri in ("s3://bucket/a@b", "s3://arn:aws:s3:eu-west-1:1:accesspoint/name/a", "/a/b@c"):
        assert redact(uri) == uri
    assert server_name("http://127.0.0.1:9000/path") == "http://127.0.0.1:9000"
    assert server_name(None) == "AWS S3"


COMMANDS = {
    "job": ["-m", "rdm_batch.run", "{job}", "--address", "none"],
    "evaluate with keys": [
        *("-m", "rdm_batch.cli", "evaluate", f"s3://AKIA:x/{SECRET}@b/a"),
        *("--reference", f"s3://AKIA:x/{SECRET}@b/r.npz"),
    ],
    "export": [
        "-m",
        "rdm_batch.cli",
        "export",
        "s3://b/a",
        "--format",
        "webdataset",
        "--out",
        "s3://b/o",
    ],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_shows_a_secret(command: str, world: World, tmp_path: Path) -> None:
    document = world.document
    document["output"]["uri"] = "s3://bucket/out"
    document["database"]["uri"] = "s3://bucket/database"
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(document))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        **ISOLATION,
        **endpoint(f"http://me:{SECRET}@{DEAD}/?{SECRET}"),
        "RDM_BATCH_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, *(part.format(job=job) for part in COMMANDS[command])],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 1
    assert "credentials" in printed
    assert SECRET not in printed
    assert "Traceback" not in printed
    for path in tmp_path.rglob("*"):
        assert SECRET not in str(path)
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def everything_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(folder.rglob("*")):
        yield path, path.read_bytes() if path.is_file() and not path.is_symlink() else b""


def test_ray_keeps_no_secret(world: World, moto_server: ObjectServer, tmp_path: Path) -> None:
    document = world.document
    location = moto_server.fresh_uri()
    document["output"]["uri"] = location
    document["evaluation"] = None
    document["sampling"]["num_samples"] = 8
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(document))
    with (
        # The path of a socket may have 107 bytes.
        tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as ray,
        LyingProxy(moto_server.endpoint).running() as proxy,
    ):
        environment = {
            **os.environ,
            **ISOLATION,
            **endpoint(proxy.endpoint),
            "AWS_SESSION_TOKEN": f"token-{SECRET}",
            "HTTP_PROXY": f"http://me:{SECRET}@{DEAD}",
            "HTTPS_PROXY": f"http://me:{SECRET}@{DEAD}",
            "no_proxy": "127.0.0.1,localhost",
            "RAY_TMPDIR": ray,
            "RDM_BATCH_CACHE": str(tmp_path / "cache"),
        }
        # Late enough for workers to be the first who see it.
        lie = Lie("expired", frozenset({"put"}), LIES["expired credentials"].tell)
        with proxy.lying(lie, after=2):
            done = subprocess.run(
                [sys.executable, "-m", "rdm_batch.run", str(job), "--address", "local"],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
        printed = done.stdout + done.stderr
        assert done.returncode == 1, printed
        assert SECRET not in printed
        assert "Traceback" not in printed
        assert printed.count("refused the session token") == 1, printed
        found = list(everything_below(Path(ray)))
        assert any("worker" in path.name for path, _ in found)
        for path, content in [*found, *everything_below(tmp_path)]:
            assert SECRET not in str(path)
            assert SECRET.encode() not in content, path
