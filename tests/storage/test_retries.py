"""A store that fails in every way a network can, for as long as it is told to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rdm_batch.errors import SampleSetError
from rdm_batch.storage.object_store import open_store
from rdm_batch.storage.s3 import S3Store
from rdm_batch.storage.s3_requests import MAX_ATTEMPTS
from rdm_batch.storage.store import ObjectInfo
from tests.stores import ISOLATION


class FlakyServer(ThreadingHTTPServer):
    """Holds one object; answers each request with the next of ``failures``, then well."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failures: list[str] = []
        self.requests: list[str] = []
        self.content = b"content"
        self.written = False

    def tag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyServer

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(body)

    def do_HEAD(self) -> None:
        self.server.requests.append("HEAD")
        if self.server.written:
            self._send(200, self.server.content)
        else:
            self._send(404, b"")

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, body: bytes | None = None) -> None:
        self.server.requests.append(self.command)
        failure = self.server.failures.pop(0) if self.server.failures else ""
        if failure == "hang up":
            self.close_connection = True
        elif failure == "half":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"only half")
            self.close_connection = True
        elif failure:
            status, _, code = failure.partition(" ")
            self._send(int(status), f"<Error><Code>{code}</Code></Error>".encode())
        elif body is None:
            self._send(200, self.server.content)
        else:
            self.server.content, self.server.written = body, True
            self._send(200, b"")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 200:
            self.send_header("ETag", self.server.tag())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyServer]:
    server = FlakyServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    environment = {
        **ISOLATION,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rdm_batch.storage.s3_requests.FIRST_WAIT_S", 0.001)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


TRANSIENT = ["500 InternalError", "503 SlowDown", "502 ", "504 ", "429 TooMany", "hang up"]


@pytest.mark.parametrize("failure", [*TRANSIENT, "half"])
def test_reads_are_made_again(flaky: FlakyServer, failure: str) -> None:
    flaky.failures = [failure] * (MAX_ATTEMPTS - 1)
    assert open_store("s3://bucket/a").read_bytes("b") == b"content"
    assert flaky.requests == ["GET"] * MAX_ATTEMPTS


@pytest.mark.parametrize("failure", TRANSIENT)
def test_writes_are_made_again(flaky: FlakyServer, failure: str) -> None:
    flaky.failures = [failure] * (MAX_ATTEMPTS - 1)
    open_store("s3://bucket/a").write_bytes("b", b"new")
    assert flaky.content == b"new"
    assert flaky.requests == [*["PUT"] * MAX_ATTEMPTS, "HEAD"]


def test_tries_are_bounded_and_counted(flaky: FlakyServer) -> None:
    flaky.failures = ["503 SlowDown"] * 100
    with pytest.raises(SampleSetError, match=r"answered 503 SlowDown \(5 tries\)"):
        open_store("s3://bucket/a").read_bytes("b")
    assert len(flaky.requests) == MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("403 AccessDenied", "access denied .* permission for PutObject"),
        ("404 NoSuchBucket", "bucket bucket does not exist"),
        ("400 ExpiredToken", "refused the session token"),
        ("403 RequestTimeTooSkewed", "refused this machine's clock"),
        ("400 AuthorizationHeaderMalformed", "another region"),
        ("400 EntityTooLarge", "answered 400 EntityTooLarge"),
        ("501 NotImplemented", "answered 501 NotImplemented"),
    ],
)
def test_definite_answers_are_not_asked_for_again(
    flaky: FlakyServer, failure: str, message: str
) -> None:
    flaky.failures = [failure]
    with pytest.raises(SampleSetError, match=message):
        open_store("s3://bucket/a").write_bytes("b", b"")
    assert flaky.requests == ["PUT"]


def test_a_store_without_conditional_writes_is_written_plainly(flaky: FlakyServer) -> None:
    flaky.failures = ["501 NotImplemented"]
    assert open_store("s3://bucket/a").write_bytes_if_absent("b", b"new")
    assert flaky.content == b"new"
    assert flaky.requests == ["HEAD", "PUT", "PUT", "HEAD"]


def test_a_conditional_write_that_lost_says_so(flaky: FlakyServer) -> None:
    flaky.failures = ["412 PreconditionFailed"]
    assert not open_store("s3://bucket/a").write_bytes_if_absent("b", b"new")
    assert flaky.content == b"content"


def test_a_store_that_ignores_ranges_is_noticed(flaky: FlakyServer) -> None:
    flaky.content = b"0123456789"
    store = open_store("s3://bucket/a")
    assert isinstance(store, S3Store)
    found = ObjectInfo("b", 10, flaky.tag().strip('"'))
    with pytest.raises(SampleSetError, match="gave 10 bytes for a range of 4"):
        store.read_range(found, 2, 6)
