from __future__ import annotations

import errno
import gc
import os
import pickle
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdm_batch.errors import CheckpointError, SampleSetError
from rdm_batch.storage import s3_client
from rdm_batch.storage.object_store import check_writable, local_path, open_store
from rdm_batch.storage.s3 import S3Store
from rdm_batch.storage.s3_client import PART_BYTES
from tests.stores import ObjectServer


def test_written_bytes_are_read_back(storage_uri: str) -> None:
    store = open_store(storage_uri)
    store.write_bytes("a/b.bin", b"hello")
    assert store.read_bytes("a/b.bin") == b"hello"
    assert store.size("a/b.bin") == 5
    assert store.exists("a/b.bin")


def test_a_write_replaces_what_was_there(storage_uri: str) -> None:
    store = open_store(storage_uri)
    store.write_bytes("a", b"first")
    store.write_bytes("a", b"second")
    assert store.read_bytes("a") == b"second"


def test_write_if_absent_keeps_the_first_content(storage_uri: str) -> None:
    store = open_store(storage_uri)
    assert store.write_bytes_if_absent("a", b"first")
    assert not store.write_bytes_if_absent("a", b"second")
    assert store.read_bytes("a") == b"first"


def test_listing_sees_every_level_and_nothing_of_its_neighbors(storage_uri: str) -> None:
    store = open_store(storage_uri)
    for key in ("b/1", "b/c/2", "bb/3", "a"):
        store.write_bytes(key, b"x")
    assert [item.key for item in store.list_objects()] == ["a", "b/1", "b/c/2", "bb/3"]
    assert [item.key for item in store.list_objects("b")] == ["b/1", "b/c/2"]
    assert store.list_objects("nothing") == []


def test_listing_sees_what_another_store_object_wrote(storage_uri: str) -> None:
    store = open_store(storage_uri)
    assert store.list_objects() == []
    open_store(storage_uri).write_bytes("a", b"x")
    assert [item.key for item in store.list_objects()] == ["a"]


def test_deleted_objects_are_gone_and_deleting_twice_is_no_failure(storage_uri: str) -> None:
    store = open_store(storage_uri)
    store.write_bytes("a", b"x")
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")


def test_a_missing_object_raises_the_class_asked_for(storage_uri: str) -> None:
    store = open_store(storage_uri, error=CheckpointError)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: does not exist"):
        store.read_bytes("weights.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        store.size("weights.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        store.open_read("weights.safetensors")


def test_open_read_gives_ranges(storage_uri: str) -> None:
    store = open_store(storage_uri)
    content = bytes(range(256)) * 20_000
    store.write_bytes("a", content)
    with store.open_read("a") as file:
        file.seek(-10, os.SEEK_END)
        assert file.read() == content[-10:]
        file.seek(300)
        assert file.read(3) == content[300:303]
        assert file.tell() == 303
        file.seek(0)
        assert file.read() == content


def test_a_streamed_write_of_several_parts_is_one_object(storage_uri: str) -> None:
    store = open_store(storage_uri)
    piece = os.urandom(1 << 20)
    count = 2 * PART_BYTES // len(piece) + 3
    with store.open_write("big") as file:
        for _ in range(count):
            file.write(piece)
        assert not store.exists("big")
    assert store.read_bytes("big") == piece * count
    assert store.list_objects() == [store.stat("big")]


@pytest.mark.parametrize("num_bytes", [10, 2 * PART_BYTES + 5])
def test_a_streamed_write_that_fails_leaves_nothing(storage_uri: str, num_bytes: int) -> None:
    store = open_store(storage_uri)

    def fail_half_way() -> None:
        with store.open_write("a") as file:
            file.write(b"\0" * num_bytes)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert store.list_objects() == []


def test_a_writable_place_passes_and_stays_empty(storage_uri: str) -> None:
    check_writable(storage_uri)
    assert open_store(storage_uri).list_objects() == []
    assert not Path(storage_uri).exists()


def test_stores_pickle_and_serve_several_threads(storage_uri: str) -> None:
    store = pickle.loads(pickle.dumps(open_store(storage_uri)))
    threads = [
        threading.Thread(target=store.write_bytes, args=(f"{i}", bytes([i]))) for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {item.key: store.read_bytes(item.key) for item in store.list_objects()} == {
        f"{i}": bytes([i]) for i in range(16)
    }


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_stores_work_in_a_forked_process(storage_uri: str) -> None:
    store = open_store(storage_uri)
    store.write_bytes("a", b"parent")
    assert _status_in_a_fork(lambda: store.write_bytes("b", store.read_bytes("a"))) == 0
    assert store.read_bytes("b") == b"parent"


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_process_never_closes_the_connections_of_its_parent(swift_uri: str) -> None:
    # Closing them there empties the event queue of the parent, which waits for a time-out.
    store = open_store(swift_uri)
    store.write_bytes("a", b"parent")
    inherited = weakref.ref(s3_client.connections.filesystem())

    def use_and_collect() -> None:
        store.read_bytes("a")
        gc.collect()
        assert inherited() is not None
        assert inherited() is not s3_client.connections.filesystem()

    assert _status_in_a_fork(use_and_collect) == 0


def test_one_of_many_conditional_writers_wins(moto_uri: str) -> None:
    store = open_store(moto_uri)
    won: list[int] = []

    def write(number: int) -> None:
        if store.write_bytes_if_absent("a", bytes([number])):
            won.append(number)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read_bytes("a") == bytes(won)


def test_listing_joins_pages(swift_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, pages = S3Store.ask, []

    async def ask_for_small_pages(
        self: S3Store, filesystem: Any, operation: str, **request: Any
    ) -> Any:
        if operation == "list_objects_v2":
            request["MaxKeys"] = 2
            pages.append(operation)
        return await ask(self, filesystem, operation, **request)

    monkeypatch.setattr(S3Store, "ask", ask_for_small_pages)
    store = open_store(swift_uri)
    for key in "edcba":
        store.write_bytes(key, b"")
    assert [item.key for item in store.list_objects()] == list("abcde")
    assert len(pages) == 3


def test_shipped_files_are_local_and_read_only(tmp_path: Path) -> None:
    with pytest.raises(SampleSetError, match="package://nothing/here: does not exist"):
        local_path("package://nothing/here")
    with pytest.raises(SampleSetError, match="part of the installed package"):
        check_writable("package://shapes")
    with pytest.raises(SampleSetError, match="part of the installed package"):
        open_store("package://shapes").write_bytes("a", b"")


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_are_named_as_such_and_not_shown(
    swift_server: ObjectServer, swift_uri: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "hush-hush")
    with pytest.raises(SampleSetError, match="refused the access key or its secret") as caught:
        check_writable(swift_uri)
    assert swift_server.endpoint in str(caught.value)
    assert "hush-hush" not in str(caught.value)


def test_missing_credentials_say_what_to_set(
    swift_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SampleSetError, match=r"no credentials .* set AWS_ACCESS_KEY_ID"):
        check_writable(swift_uri)


@pytest.mark.usefixtures("swift_uri")
def test_missing_bucket_is_named() -> None:
    with pytest.raises(SampleSetError, match="bucket nowhere does not exist"):
        check_writable("s3://nowhere/a")
    with pytest.raises(SampleSetError, match="bucket nowhere does not exist"):
        open_store("s3://nowhere/a").list_objects()


def test_unreachable_endpoint_is_named_after_a_bounded_wait(
    swift_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdm_batch.storage.s3_requests.FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        SampleSetError, match=r"http://127\.0\.0\.1:9 cannot be reached \(5 tries\)"
    ):
        check_writable(swift_uri)


def test_an_endpoint_that_is_no_url_is_named(
    swift_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises(SampleSetError, match="AWS_ENDPOINT_URL is not a URL"):
        check_writable(swift_uri)


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SampleSetError, match="file is a file; needed a folder"):
        check_writable(str(tmp_path / "file" / "below"))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "access denied"),
        (errno.EROFS, "is on a read-only file system"),
        (errno.ENOSPC, r"no space left \([\d,]+ bytes free\)"),
        (errno.EDQUOT, "no space left"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_refusals_of_a_file_system_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    # Stands in for disks that a test cannot fill and modes that do not bind root.
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(SampleSetError, match=message):
        check_writable(str(tmp_path / "new" / "folder"))
    with pytest.raises(SampleSetError, match=message):
        open_store(str(tmp_path)).write_bytes("a", b"x")


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_write_that_dies_leaves_only_what_listings_skip(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    pid = os.fork()
    if pid == 0:
        with store.open_write("a") as file:
            file.write(b"half")
            os._exit(9)
    os.waitpid(pid, 0)
    assert any(tmp_path.iterdir())
    assert store.list_objects() == []
    assert not store.exists("a")


def _status_in_a_fork(action: Callable[[], None]) -> int:
    # What other tests left must not be collected in there: ScaNN would wait for threads that a
    # fork does not have.
    gc.collect()
    gc.freeze()
    try:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                action()
                status = 0
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        gc.unfreeze()
