from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rdm_batch.errors import CheckpointError, SampleSetError
from rdm_batch.storage import download
from rdm_batch.storage.object_store import local_path, open_store
from rdm_batch.storage.s3 import S3Store


def test_local_paths_are_returned_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    assert local_path(str(tmp_path / "a")) == tmp_path / "a"
    assert local_path(f"file://{tmp_path}") == tmp_path
    with pytest.raises(CheckpointError, match="b: does not exist"):
        local_path(str(tmp_path / "b"), error=CheckpointError)


def test_a_remote_file_keeps_its_name(swift_uri: str, tmp_path: Path) -> None:
    open_store(swift_uri).write_bytes("head.safetensors", b"weights")
    path = local_path(f"{swift_uri}/head.safetensors", tmp_path)
    assert path.name == "head.safetensors"
    assert path.read_bytes() == b"weights"


def test_a_remote_folder_keeps_its_layout(swift_uri: str, tmp_path: Path) -> None:
    store = open_store(swift_uri)
    content = {"database.json": b"{}", "embeddings/shard-00000.parquet": os.urandom(1 << 20)}
    for key, data in content.items():
        store.write_bytes(f"db/{key}", data)
    store.write_bytes("db2/other", b"x")
    path = local_path(f"{swift_uri}/db/", tmp_path)
    found = {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    assert found == content


def test_large_files_are_put_together_from_their_pieces(
    swift_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK_BYTES", 1000)
    data = os.urandom(10_500)
    open_store(swift_uri).write_bytes("a", data)
    assert local_path(f"{swift_uri}/a", tmp_path).read_bytes() == data


def test_the_second_time_nothing_is_read(
    swift_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(swift_uri).write_bytes("a", b"x")
    first = local_path(f"{swift_uri}/a", tmp_path)
    monkeypatch.delattr(S3Store, "read_range")
    assert local_path(f"{swift_uri}/a", tmp_path) == first


def test_new_content_gets_a_new_copy(swift_uri: str, tmp_path: Path) -> None:
    store = open_store(swift_uri)
    store.write_bytes("a", b"old")
    old = local_path(f"{swift_uri}/a", tmp_path)
    store.write_bytes("a", b"new")
    new = local_path(f"{swift_uri}/a", tmp_path)
    assert (old.read_bytes(), new.read_bytes()) == (b"old", b"new")


def test_the_cache_folder_comes_from_the_environment(
    swift_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(swift_uri).write_bytes("a", b"x")
    monkeypatch.delenv("RDM_BATCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tmp_path / "xdg" / "rdm_batch" in local_path(f"{swift_uri}/a").parents
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "own"))
    assert tmp_path / "own" in local_path(f"{swift_uri}/a").parents


def test_what_is_not_there_is_named(swift_uri: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing: does not exist"):
        local_path(f"{swift_uri}/nothing", tmp_path, error=CheckpointError)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_an_interrupted_download_is_made_again(
    swift_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK_BYTES", 1000)
    data = os.urandom(5_000)
    open_store(swift_uri).write_bytes("a", data)
    pid = os.fork()
    if pid == 0:
        try:
            read = S3Store.read_range

            def read_once_then_die(self, found, start, stop):  # type: ignore[no-untyped-def]
                if start:
                    os.kill(os.getpid(), signal.SIGKILL)
                return read(self, found, start, stop)

            S3Store.read_range = read_once_then_die  # type: ignore[method-assign]
            local_path(f"{swift_uri}/a", tmp_path)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert list(tmp_path.glob("*.partial"))
    assert local_path(f"{swift_uri}/a", tmp_path).read_bytes() == data
    assert not list(tmp_path.glob("*.partial"))


def test_content_that_changes_on_the_way_is_refused(
    swift_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK_BYTES", 1000)
    store = open_store(swift_uri)
    store.write_bytes("a", b"0" * 3000)
    read = S3Store.read_range

    def read_and_change(self, found, start, stop):  # type: ignore[no-untyped-def]
        data = read(self, found, start, stop)
        if start == 0:
            store.write_bytes("a", b"1" * 3000)
        return data

    monkeypatch.setattr(S3Store, "read_range", read_and_change)
    with pytest.raises(SampleSetError, match="changed while it was read"):
        local_path(f"{swift_uri}/a", tmp_path)


def test_keys_that_climb_out_of_the_cache_are_refused(moto_uri: str, tmp_path: Path) -> None:
    open_store(moto_uri).write_bytes("db/../../evil", b"x")
    with pytest.raises(SampleSetError, match="cannot become a path"):
        local_path(f"{moto_uri}/db", tmp_path)


def test_processes_that_ask_at_once_all_get_the_whole(swift_uri: str, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    open_store(swift_uri).write_bytes("a", data)
    code = (
        "import sys; from rdm_batch.storage.object_store import local_path; "
        "sys.stdout.buffer.write(local_path(*sys.argv[1:]).read_bytes())"
    )
    command = [sys.executable, "-c", code, f"{swift_uri}/a", str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate(timeout=240)[0] for process in processes] == [data] * 2
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
