from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rdm_batch.errors import SampleSetError
from rdm_batch.export import EXPORT_FORMATS, export_samples
from rdm_batch.inputs.image_sets import open_image_set
from rdm_batch.storage import object_store, store
from rdm_batch.storage.manifest import Measured
from rdm_batch.storage.missing import MissingShards
from rdm_batch.storage.object_store import open_store
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.s3 import S3Store
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.store import LocalStore, ObjectInfo
from tests.storage.sets import SIZE, damage_of, image_of, make_header, make_rows, write_set

TWO_SHARDS = make_header(num_samples=15)
WRITES = ("write_bytes", "write_bytes_if_absent")


def test_samples_come_back_in_order_with_their_provenance(storage_uri: str) -> None:
    write_set(storage_uri)
    batches = list(SampleSet.open(storage_uri).iter_batches())
    indices = np.concatenate([batch["sample_index"].to_numpy() for batch in batches])
    assert indices.tolist() == list(range(25))
    for batch in batches:
        for row in batch.to_pylist():
            index = row["sample_index"]
            np.testing.assert_array_equal(decode_png(row["image"]["bytes"]), image_of(index))
            assert row["neighbor_ids"] == [index, index + 1]
            assert row["query_id"] == 7 * index
            assert row["prompt"] is None


def test_reading_some_columns_of_some_shards(storage_uri: str) -> None:
    write_set(storage_uri)
    (batch,) = SampleSet.open(storage_uri).iter_batches(["query_id"], shards=[2])
    assert batch.schema.names == ["query_id"]
    assert batch["query_id"].to_pylist() == [7 * index for index in range(20, 25)]


def test_an_unknown_column_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    write_set(str(tmp_path))
    with pytest.raises(SampleSetError, match="no column 'pixels'; needed of image, sample_index"):
        list(SampleSet.open(str(tmp_path)).iter_batches(["pixels"]))


def test_row_groups_hold_a_hundred_rows(tmp_path: Path) -> None:
    write_set(str(tmp_path), make_header(num_samples=250, shard_size=250))
    metadata = pq.read_metadata(tmp_path / "data" / "00000.parquet")
    assert [metadata.row_group(i).num_rows for i in range(3)] == [100, 100, 50]


def test_the_schema_declares_the_image_feature_of_hugging_face(tmp_path: Path) -> None:
    write_set(str(tmp_path))
    schema = pq.read_schema(tmp_path / "data" / "00000.parquet")
    declared = json.loads(schema.metadata[b"huggingface"])
    assert declared["info"]["features"]["image"] == {"_type": "Image"}
    assert [field.name for field in schema.field("image").type] == ["bytes", "path"]


def test_resume_names_the_shards_that_are_missing(storage_uri: str) -> None:
    header = make_header()
    first = SampleSet.create_or_resume(storage_uri, header)
    assert list(first.missing_shards()) == [0, 1, 2]
    first.commit_shard(1, make_rows(header, 1))
    assert list(SampleSet.create_or_resume(storage_uri, header).missing_shards()) == [0, 2]


def test_an_entry_whose_file_is_gone_or_cut_does_not_count(tmp_path: Path) -> None:
    write_set(str(tmp_path))
    (tmp_path / "data" / "00000.parquet").unlink()
    with (tmp_path / "data" / "00001.parquet").open("r+b") as file:
        file.truncate(100)
    assert list(SampleSet.create_or_resume(str(tmp_path), make_header()).missing_shards()) == [0, 1]
    write_set(str(tmp_path))
    assert damage_of(str(tmp_path)) == []


def measured(**intervals: tuple[float, float]) -> Measured:
    return Measured(run="run", head="head-0", device="cpu", intervals=intervals)


def test_an_entry_keeps_timings_and_worker(tmp_path: Path) -> None:
    header = make_header()
    sample_set = SampleSet.create_or_resume(str(tmp_path), header)
    rows = make_rows(header, 0)
    entry = sample_set.commit_shard(0, rows, measured(model=(1.0, 2.5)))
    assert entry.measured is not None
    assert entry.measured.intervals["model"] == (1.0, 2.5)
    assert set(entry.measured.intervals) == {"model", "write"}
    assert sample_set.entries() == [entry]


def test_committing_twice_keeps_the_first_commit(storage_uri: str) -> None:
    header = make_header()
    sample_set = SampleSet.create_or_resume(storage_uri, header)
    first = sample_set.commit_shard(0, make_rows(header, 0), measured(model=(1.0, 2.0)))
    assert sample_set.commit_shard(0, make_rows(header, 0), measured(model=(3.0, 4.0))) == first


def test_another_job_is_refused_with_the_fields_that_changed(storage_uri: str) -> None:
    write_set(storage_uri)
    before = {item.key: item.tag for item in open_store(storage_uri).list_objects()}
    other = make_header(sampling={"num_samples": 25, "eta": 1.0}, model={"head": "rdm"})
    with pytest.raises(SampleSetError) as caught:
        SampleSet.create_or_resume(storage_uri, other)
    assert "sampling.eta: 0.0 -> 1.0" in str(caught.value)
    assert "model.head: not set -> rdm" in str(caught.value)
    assert "num_samples" not in str(caught.value)
    assert {item.key: item.tag for item in open_store(storage_uri).list_objects()} == before


def test_shards_without_a_header_are_not_written_over(tmp_path: Path) -> None:
    write_set(str(tmp_path))
    (tmp_path / "sample_set.json").unlink()
    with pytest.raises(SampleSetError, match=r"but no sample_set\.json"):
        SampleSet.create_or_resume(str(tmp_path), make_header())


def test_finish_refuses_while_shards_are_missing(storage_uri: str) -> None:
    header = make_header()
    sample_set = SampleSet.create_or_resume(storage_uri, header)
    sample_set.commit_shard(1, make_rows(header, 1))
    with pytest.raises(SampleSetError, match=r"has 10 of 25 samples \(shards missing: 0, 2\)"):
        sample_set.finish()
    assert sample_set.success() is None


def test_an_incomplete_set_is_opened_only_when_allowed(tmp_path: Path) -> None:
    header = make_header(num_samples=250)
    sample_set = SampleSet.create_or_resume(str(tmp_path), header)
    sample_set.commit_shard(3, make_rows(header, 3))
    with pytest.raises(SampleSetError, match="missing: 0, 1, 2, 4, 5 and 19 more"):
        SampleSet.open(str(tmp_path))
    partial = SampleSet.open(str(tmp_path), allow_partial=True)
    (batch,) = partial.iter_batches(["sample_index"])
    assert batch["sample_index"].to_pylist() == list(range(30, 40))


def test_a_set_that_was_never_finished_is_not_complete(tmp_path: Path) -> None:
    write_set(str(tmp_path))
    (tmp_path / "_SUCCESS.json").unlink()
    with pytest.raises(SampleSetError, match="was not finished"):
        SampleSet.open(str(tmp_path))


def test_no_set_is_named_as_such(storage_uri: str) -> None:
    with pytest.raises(SampleSetError, match="holds no sample set"):
        SampleSet.open(storage_uri)


def test_shards_changed_after_completion_are_noticed(tmp_path: Path) -> None:
    header = make_header()
    write_set(str(tmp_path))
    (tmp_path / "_shards" / "00000.json").unlink()
    other = make_rows(header, 0).set_column(
        2, make_rows(header, 0).schema.field("seed"), [[4] * 10]
    )
    SampleSet.create_or_resume(str(tmp_path), header).commit_shard(0, other)
    with pytest.raises(SampleSetError, match="changed after it was finished"):
        SampleSet.open(str(tmp_path))


def test_images_of_another_size_are_refused_with_counts(tmp_path: Path) -> None:
    header = make_header()
    sample_set = SampleSet.create_or_resume(str(tmp_path), header)
    with pytest.raises(SampleSetError, match="10 of 9x9 among 10 images; needed 8x8"):
        sample_set.commit_shard(0, make_rows(header, 0, size=SIZE + 1))


def test_rows_of_another_shard_are_refused(tmp_path: Path) -> None:
    header = make_header()
    sample_set = SampleSet.create_or_resume(str(tmp_path), header)
    with pytest.raises(SampleSetError, match="shard 1: 10 samples; needed exactly 10 to 19"):
        sample_set.commit_shard(1, make_rows(header, 0))
    with pytest.raises(SampleSetError, match="shard 3"):
        sample_set.commit_shard(3, make_rows(header, 2))


def replace_shard(root: Path, shard: int, content: bytes) -> None:
    """Put another file in the place of a shard, and make its entry say that it belongs there."""
    (root / "data" / f"0000{shard}.parquet").write_bytes(content)
    path = root / "_shards" / f"0000{shard}.json"
    entry = json.loads(path.read_text())
    entry |= {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(entry))
    (root / "_SUCCESS.json").unlink(missing_ok=True)


def test_a_copied_shard_is_noticed_while_reading(tmp_path: Path) -> None:
    write_set(str(tmp_path))
    replace_shard(tmp_path, 1, (tmp_path / "data" / "00000.parquet").read_bytes())
    sample_set = SampleSet.open(str(tmp_path), allow_partial=True)
    with pytest.raises(SampleSetError, match=r"sample 0 stands where 10 belongs \(10 of 10 rows"):
        list(sample_set.iter_batches(shards=[1]))


def test_a_file_that_is_no_parquet_is_named_while_reading(tmp_path: Path) -> None:
    write_set(str(tmp_path))
    replace_shard(tmp_path, 0, b"x" * 1000)
    with pytest.raises(SampleSetError, match=r"00000\.parquet: is damaged"):
        list(SampleSet.open(str(tmp_path), allow_partial=True).iter_batches())


@pytest.mark.parametrize("finished", [True, False])
def test_a_file_of_other_content_is_never_read(storage_uri: str, finished: bool) -> None:
    sample_set = write_set(storage_uri)
    content = bytearray(sample_set.store.read_bytes("data/00001.parquet"))
    content[len(content) // 2] ^= 1
    sample_set.store.write_bytes("data/00001.parquet", bytes(content))
    if not finished:
        sample_set.store.delete("_SUCCESS.json")
    rows = SampleSet.open(storage_uri, allow_partial=not finished).iter_batches(["query_id"])
    assert next(rows).num_rows == 10
    with pytest.raises(SampleSetError, match=r"00001\.parquet: has other content than its digest"):
        next(rows)


@pytest.mark.parametrize("allow_partial", [True, False])
def test_a_finished_set_is_read_as_it_was_finished_or_not_at_all(
    storage_uri: str, allow_partial: bool
) -> None:
    sample_set = write_set(storage_uri)
    sample_set.store.delete("_shards/00002.json")
    with pytest.raises(SampleSetError, match=r"has 20 of 25 samples \(shards missing: 2\)"):
        list(SampleSet.open(storage_uri, allow_partial).iter_batches())
    resumed = SampleSet.create_or_resume(storage_uri, make_header())
    assert list(resumed.missing_shards()) == [2]


class Stale(LocalStore):
    """A store whose listings show what there was before anything was written."""

    def list_objects(self, folder: str = "") -> list[ObjectInfo]:
        return []


def test_an_empty_listing_hides_nothing_of_a_finished_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(str(tmp_path / "set"))
    monkeypatch.setattr(object_store, "LocalStore", Stale)
    sample_set = SampleSet.open(str(tmp_path / "set"), allow_partial=True)
    assert sample_set.store.list_objects() == []
    assert sum(batch.num_rows for batch in sample_set.iter_batches()) == 25
    assert list(sample_set.missing_shards()) == []
    assert damage_of(str(tmp_path / "set")) == []
    assert open_image_set(str(tmp_path / "set")).num_images == 25
    for form in EXPORT_FORMATS:
        written = export_samples(str(tmp_path / "set"), form, str(tmp_path / f"{form}.npz"))
        assert written.num_samples == 25
        assert written.num_files == {"adm-npz": 1, "png-folder": 25, "webdataset": 3}[form]


def test_a_resume_with_an_empty_listing_repeats_work_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = make_header()
    SampleSet.create_or_resume(str(tmp_path), header).commit_shard(1, make_rows(header, 1))
    monkeypatch.setattr(object_store, "LocalStore", Stale)
    assert write_set(str(tmp_path), header).require_complete().num_rows == 25


def test_a_listing_of_files_that_are_gone_finishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = make_header()
    sample_set = SampleSet.create_or_resume(str(tmp_path), header)
    for shard in range(3):
        sample_set.commit_shard(shard, make_rows(header, shard))
    listed = {folder: sample_set.store.list_objects(folder) for folder in ("data", "_shards")}
    (tmp_path / "data" / "00001.parquet").unlink()
    monkeypatch.setattr(LocalStore, "list_objects", lambda _, folder: listed[folder])
    with pytest.raises(SampleSetError, match=r"shards missing: 1"):
        sample_set.finish()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"format_version": 1}'])
@pytest.mark.parametrize("key", ["sample_set.json", "_shards/00001.json", "_SUCCESS.json"])
def test_damaged_manifests_are_named(tmp_path: Path, key: str, content: bytes) -> None:
    write_set(str(tmp_path))
    (tmp_path / key).write_bytes(content)
    with pytest.raises(SampleSetError, match=rf"{key}: is damaged"):
        SampleSet.open(str(tmp_path))


def test_a_newer_format_is_refused_by_its_number(tmp_path: Path) -> None:
    write_set(str(tmp_path))
    content = json.loads((tmp_path / "sample_set.json").read_text())
    (tmp_path / "sample_set.json").write_text(json.dumps(content | {"format_version": 2, "x": 0}))
    with pytest.raises(SampleSetError, match="format version 2; needed 1"):
        SampleSet.open(str(tmp_path))


def test_entries_never_point_outside_the_set(tmp_path: Path) -> None:
    write_set(str(tmp_path))
    path = tmp_path / "_shards" / "00000.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"file": "../../etc/passwd"}))
    with pytest.raises(SampleSetError, match=r"00000\.json: is damaged: file"):
        SampleSet.open(str(tmp_path))


# A job of two shards makes six writes: the header, the file and the entry of each shard,
# the proof of completion. Dying before one of them is dying after the one before.
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("write", range(1, 7))
def test_a_job_killed_between_two_writes_resumes_to_the_same_bytes(
    storage_uri: str, write: int, tmp_path: Path
) -> None:
    write_set(str(tmp_path / "uninterrupted"), TWO_SHARDS)
    _run_and_die(storage_uri, lambda: _kill_before(write))
    write_set(storage_uri, TWO_SHARDS)
    assert damage_of(storage_uri) == []
    assert _data(storage_uri) == _data(str(tmp_path / "uninterrupted"))


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("write", range(1, 7))
def test_a_job_killed_while_a_local_file_has_no_name_yet_resumes(
    write: int, tmp_path: Path
) -> None:
    uri = str(tmp_path / "set")
    write_set(str(tmp_path / "uninterrupted"), TWO_SHARDS)
    _run_and_die(uri, lambda: _kill_before(write, store, ["_flush_to_disk"]))
    write_set(uri, TWO_SHARDS)
    assert damage_of(uri) == []
    assert _data(uri) == _data(str(tmp_path / "uninterrupted"))


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_job_that_dies_again_and_again_does_not_corrupt_the_set(storage_uri: str) -> None:
    # The second write of a resumed job is a shard's entry: no run gets any further.
    for _ in range(3):
        _run_and_die(storage_uri, lambda: _kill_before(2))
    write_set(storage_uri, TWO_SHARDS)
    assert damage_of(storage_uri) == []


def _data(uri: str) -> dict[str, bytes]:
    stored = open_store(uri)
    return {item.key: stored.read_bytes(item.key) for item in stored.list_objects("data")}


def _run_and_die(uri: str, arm: Callable[[], None]) -> None:
    """Run the job in a process that is armed to get SIGKILL on its way."""
    pid = os.fork()
    if pid == 0:
        try:
            arm()
            write_set(uri, TWO_SHARDS)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def _kill_before(write: int, owner: Any = None, names: Sequence[str] = WRITES) -> None:
    """Make the n-th of these calls deadly; of every kind of store when there is no owner."""
    count = 0

    def deadly(function: Any) -> Any:
        def call(*args: Any) -> Any:
            nonlocal count
            count += 1
            if count == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)

        return call

    for kind in (LocalStore, S3Store) if owner is None else (owner,):
        for name in names:
            setattr(kind, name, deadly(getattr(kind, name)))


def test_what_is_missing_of_a_billion_shards_is_no_list() -> None:
    header = make_header().model_copy(update={"num_samples": 10**9, "shard_size": 1})
    missing = MissingShards(header, [0, 1, 5])
    assert (len(missing), missing.num_samples) == (10**9 - 3, 10**9 - 3)
    assert list(islice(missing, 4)) == [2, 3, 4, 6]
    assert (5 in missing, 6 in missing) == (False, True)
