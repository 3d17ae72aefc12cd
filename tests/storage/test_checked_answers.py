"""What a store answers is compared with what is known, request by request."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdm_batch.errors import DatabaseError, SampleSetError
from rdm_batch.retrieval.database import StoredFile
from rdm_batch.storage import s3_client
from rdm_batch.storage.etags import claimed_md5, tags
from rdm_batch.storage.object_store import check_writable, local_path, open_store
from rdm_batch.storage.s3_requests import MAX_ATTEMPTS
from rdm_batch.storage.store import Store
from tests.fixtures.lying_proxy import ANY, LIES, Answer, Exchange, Lie, LyingProxy
from tests.stores import ObjectServer, enter


@pytest.fixture(scope="module")
def proxy(moto_server: ObjectServer) -> Iterator[LyingProxy]:
    with LyingProxy(moto_server.endpoint).running() as proxy:
        yield proxy


@pytest.fixture
def store(
    proxy: LyingProxy,
    moto_server: ObjectServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Store:
    """An empty place on a store that nothing is known of yet, behind the proxy."""
    uri = enter(moto_server, monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rdm_batch.storage.s3_requests.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 0.4)
    monkeypatch.setattr("rdm_batch.storage.s3_objects.PART_BYTES", 1000)
    monkeypatch.setattr(tags, "_are_md5", {})
    return open_store(uri)


def cached_files(tmp_path: Path) -> list[Path]:
    found = (tmp_path / "cache").rglob("*")
    return [path for path in found if path.is_file() and ".partial" not in str(path)]


BODIES = ("short body", "long body", "missing length", "flipped byte read", "error with status 200")


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_not_the_object_is_never_given(
    proxy: LyingProxy, store: Store, name: str
) -> None:
    store.write_bytes("a", b"what was written")
    with proxy.lying(LIES[name], times=2):
        assert store.read_bytes("a") == b"what was written"
    with proxy.lying(LIES[name]), pytest.raises(SampleSetError, match=r"/a: .*\(5 tries\)"):
        store.read_bytes("a")


@pytest.mark.parametrize("name", [*BODIES, "other range", "range ignored", "wrong tag of a read"])
def test_ranges_are_the_object_that_was_opened(
    proxy: LyingProxy, store: Store, name: str, tmp_path: Path
) -> None:
    content = os.urandom(3000)
    store.write_bytes("a", content)
    sound = {"recorded": StoredFile(path="a", num_bytes=3000, sha256=_sha256(content))}
    with proxy.lying(LIES[name], times=1):
        assert local_path(f"{store.uri}/a", **sound).read_bytes() == content
    elsewhere = tmp_path / "cache" / "elsewhere"
    with proxy.lying(LIES[name]):
        for known in ({}, sound | {"cache_dir": elsewhere}):
            # A range that is all of the object may come without being called one.
            with contextlib.suppress(SampleSetError):
                assert local_path(f"{store.uri}/a", **known).read_bytes() == content
    assert {p.read_bytes() for p in cached_files(tmp_path) if p.name == "a"} == {content}


def test_an_object_that_changes_between_ranges_is_noticed(store: Store) -> None:
    store.write_bytes("a", b"0" * 3_000_000)
    with store.open_read("a") as file:
        assert file.read(10) == b"0" * 10
        store.write_bytes("a", b"1" * 3_000_000)
        with pytest.raises(SampleSetError, match="changed while it was read"):
            file.read()


def test_only_what_was_recorded_enters_the_cache(store: Store, tmp_path: Path) -> None:
    store.write_bytes("a", b"something else")
    other = StoredFile(path="a", num_bytes=14, sha256=_sha256(b"what was built"))
    with pytest.raises(DatabaseError, match="has other content than its digest says"):
        local_path(f"{store.uri}/a", error=DatabaseError, recorded=other)
    shorter = StoredFile(path="a", num_bytes=5, sha256=_sha256(b"other"))
    with pytest.raises(DatabaseError, match="has 14 bytes; needed 5 bytes"):
        local_path(f"{store.uri}/a", error=DatabaseError, recorded=shorter)
    assert [path for path in cached_files(tmp_path) if path.name == "a"] == []


@pytest.mark.parametrize(
    "name", ["swallowed write", "flipped byte written", "wrong tag of a write"]
)
def test_a_write_that_was_not_kept_is_made_again_or_reported(
    proxy: LyingProxy, store: Store, name: str
) -> None:
    check_writable(store.uri)
    with proxy.lying(LIES[name], times=1):
        store.write_bytes("a", b"kept")
    assert store.read_bytes("a") == b"kept"
    with proxy.lying(LIES[name], times=1):
        assert store.write_bytes_if_absent("b", b"kept too") in (True, False)
    with proxy.lying(LIES[name]):
        with pytest.raises(SampleSetError, match=r"/c: .*(took|than was sent).* \(5 tries\)"):
            store.write_bytes("c", b"lost")
        if name == "swallowed write":
            with pytest.raises(SampleSetError, match="write-check: is not there"):
                check_writable(f"{store.uri}/elsewhere")


@pytest.mark.parametrize("name", ["swallowed completion", "error with status 200", "answer lost"])
def test_an_object_in_parts_is_there_or_reported(
    proxy: LyingProxy, store: Store, name: str
) -> None:
    content = os.urandom(4500)
    lie = Lie(name, frozenset({"complete"}), LIES[name].tell)
    with proxy.lying(lie, times=1), store.open_write("a") as file:
        file.write(content)
    assert store.read_bytes("a") == content
    if name != "answer lost":
        with proxy.lying(lie), pytest.raises(SampleSetError), store.open_write("b") as file:
            file.write(content)
        assert not store.exists("b")


def test_a_page_of_a_listing_is_whole(proxy: LyingProxy, store: Store) -> None:
    for key in ("a", "b"):
        store.write_bytes(key, b"")
    with proxy.lying(LIES["truncated list"]), pytest.raises(SampleSetError, match="in part"):
        store.list_objects()


def _with_own_tags(exchange: Exchange) -> None:
    # As stores do that do not digest what they are given.
    answer: Answer = exchange.forward()
    tag = hashlib.md5(exchange.path.partition("?")[0].encode()).hexdigest()
    if answer.status in (200, 206):
        answer.headers["etag"] = f'"{tag}"'
    if exchange.kind == "complete":
        answer = answer.with_body(re.sub(rb"(?<=<ETag>)[^<]*", f'"{tag}"'.encode(), answer.body))
    exchange.send(answer)


OWN_TAGS = Lie("own tags", ANY - {"list", "part"}, _with_own_tags)


def test_a_store_with_tags_of_its_own_is_read_and_written(
    proxy: LyingProxy, store: Store, tmp_path: Path
) -> None:
    with proxy.lying(OWN_TAGS):
        store.write_bytes("a", b"content")
        del proxy.requests[:]
        assert store.read_bytes("a") == b"content"
        assert proxy.requests == ["get"] * MAX_ATTEMPTS
        assert store.read_bytes("a") == b"content"
        assert len(proxy.requests) == MAX_ATTEMPTS + 1
        assert local_path(f"{store.uri}/a").read_bytes() == b"content"
        with store.open_write("b") as file:
            file.write(bytes(4500))
        assert len(store.read_bytes("b")) == 4500


def test_downloads_of_a_store_with_tags_of_its_own_are_repeated_once_only(
    proxy: LyingProxy, store: Store
) -> None:
    with proxy.lying(OWN_TAGS):
        for key in "ab":
            store.write_bytes(key, b"content")
        del proxy.requests[:]
        assert local_path(f"{store.uri}/a").read_bytes() == b"content"
        assert proxy.requests.count("range") == 3
        assert local_path(f"{store.uri}/b").read_bytes() == b"content"
        assert proxy.requests.count("range") == 4


def test_tags_that_cannot_be_digests_are_known() -> None:
    tag = {"ETag": f'"{"a" * 32}"'}
    assert claimed_md5(tag, "bucket") == "a" * 32
    assert claimed_md5(tag, "express--usw2-az1--x-s3") is None
    assert claimed_md5(tag | {"ServerSideEncryption": "aws:kms"}, "bucket") is None
    assert claimed_md5(tag | {"ServerSideEncryption": "AES256"}, "bucket") == "a" * 32
    assert claimed_md5(tag | {"SSECustomerAlgorithm": "AES256"}, "bucket") is None
    assert claimed_md5({"ETag": f'"{"a" * 32}-2"'}, "bucket") is None
    assert claimed_md5({}, "bucket") is None


def test_what_hangs_or_trickles_ends(proxy: LyingProxy, store: Store) -> None:
    store.write_bytes("a", bytes(1000))
    for name in ("stall", "slow body"):
        with proxy.lying(LIES[name], times=1):
            assert store.read_bytes("a") == bytes(1000)
    with proxy.lying(LIES["slow body"]), pytest.raises(SampleSetError, match="in time"):
        store.read_bytes("a")


def test_a_committed_object_costs_two_requests(proxy: LyingProxy, store: Store) -> None:
    store.write_bytes("a", b"x")
    del proxy.requests[:]
    store.write_bytes("b", b"x")
    assert proxy.requests == ["put", "head"]


def test_threads_share_what_is_known_of_tags(store: Store) -> None:
    store.write_bytes("a", b"x")
    threads = [threading.Thread(target=store.read_bytes, args=("a",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(tags._are_md5.values()) == {True}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
