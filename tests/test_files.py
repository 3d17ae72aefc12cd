"""Files written aside, and what is wrong with stored ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rdm_batch.errors import SpecError
from rdm_batch.files import (
    PARTIAL_SUFFIX,
    check_target,
    file_sha256,
    find_damage_in,
    path_aside,
    read_limited,
    written_aside,
)
from rdm_batch.retrieval.database import StoredFile
from rdm_batch.storage.object_store import open_store


def test_a_file_gets_its_name_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a"
    with written_aside(path) as aside:
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(IsADirectoryError), written_aside(path) as aside:
        (aside.write_text("new"), path.parent.write_text("no file"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_a_path_that_was_not_used(tmp_path: Path) -> None:
    with path_aside(tmp_path / "a") as aside:
        aside.write_text("given up")
    assert list(tmp_path.iterdir()) == []


def test_a_file_can_be_written_outside_of_its_own_folder(tmp_path: Path) -> None:
    path = tmp_path / "index" / "a"
    with written_aside(path, tmp_path) as aside:
        aside.write_text("new")
        assert list(path.parent.iterdir()) == []
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path.parent]


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_what_a_killed_writer_leaves_is_hidden_and_no_object_of_a_store(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    pid = os.fork()
    if pid == 0:
        with written_aside(path) as aside:
            aside.write_text("new")
            os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    (left,) = (item for item in tmp_path.iterdir() if item != path)
    assert left.name.startswith(".")
    assert left.name.endswith(PARTIAL_SUFFIX)
    assert [item.key for item in open_store(str(tmp_path)).list_objects()] == ["a"]
    with written_aside(path) as aside:
        aside.write_text("newer")
    assert path.read_text() == "newer"


def test_damage_is_found_the_same_way_in_a_folder_and_in_a_store(tmp_path: Path) -> None:
    digests = {}
    for name in ("whole", "altered", "cut", "gone"):
        (tmp_path / name).write_text("content")
        digests[name] = file_sha256(tmp_path / name)
    files = [StoredFile(path=name, num_bytes=7, sha256=digest) for name, digest in digests.items()]
    (tmp_path / "altered").write_text("CONTENT")
    (tmp_path / "cut").write_text("cont")
    (tmp_path / "gone").unlink()
    sizes_only = ["cut has 4 bytes; needed 7 bytes", "gone is missing; needed 7 bytes"]
    altered = "altered has other content than its digest says"
    store = open_store(str(tmp_path))
    for found in (find_damage_in(tmp_path, files), store.find_damage(files)):
        assert [str(damaged) for damaged in found] == sizes_only
    read: list[int] = []
    whole = (
        find_damage_in(tmp_path, files, digests=True),
        store.find_damage(files, digests=True, advance=read.append),
    )
    for found in whole:
        assert [str(damaged) for damaged in found] == [altered, *sizes_only]
    assert read == [7, 7, 7, 7]


def test_files_below_a_linked_folder_count_as_stored(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("content")
    root = tmp_path / "database"
    root.mkdir()
    (root / "embeddings").symlink_to(tmp_path / "elsewhere")
    file = StoredFile(
        path="embeddings/a", num_bytes=7, sha256=file_sha256(tmp_path / "elsewhere" / "a")
    )
    assert open_store(str(root)).find_damage([file], digests=True) == []


def test_what_is_no_regular_file_is_never_read(tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for path, kind in [
        (fifo, "FIFO"),
        (link, "FIFO"),
        (Path("/dev/zero"), "device"),
        (tmp_path, "folder"),
        (tmp_path / "none", "no such file"),
    ]:
        with pytest.raises(SpecError, match=kind):
            read_limited(path, 100, SpecError)


def test_no_more_than_its_limit_is_read_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_limited(path, 5, SpecError) == b"12345"
    with pytest.raises(SpecError, match="more than 4 bytes"):
        read_limited(path, 4, SpecError)


def test_a_target_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is a FIFO"),
        (tmp_path / "nowhere" / "a.json", "its folder is not there"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        with pytest.raises(SpecError, match=words):
            check_target(path, SpecError)
    check_target(tmp_path / "new.json", SpecError)
