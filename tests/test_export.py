from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rdm_batch.cli import main
from rdm_batch.errors import SampleSetError
from rdm_batch.export import EXPORT_FORMATS, ExportFormat, export_samples
from rdm_batch.storage.object_store import local_path, open_store
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.sample_set import SampleSet
from tests.storage.sets import SIZE, damage_of, image_of, make_header, make_rows, write_set


def test_npz_holds_every_image_in_order(storage_uri: str, tmp_path: Path) -> None:
    write_set(f"{storage_uri}/set")
    written = export_samples(f"{storage_uri}/set", "adm-npz", f"{storage_uri}/a.npz")
    path = local_path(f"{storage_uri}/a.npz", tmp_path)
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == ["arr_0"]
        np.testing.assert_array_equal(archive["arr_0"], np.stack([image_of(i) for i in range(25)]))
        assert archive["arr_0"].dtype == np.uint8
    assert (written.num_samples, written.num_files) == (25, 1)
    assert written.num_bytes == path.stat().st_size


def test_the_same_set_gives_the_same_npz(tmp_path: Path) -> None:
    write_set(str(tmp_path / "set"))
    for name in ("a.npz", "b.npz"):
        export_samples(str(tmp_path / "set"), "adm-npz", str(tmp_path / name))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_png_folder_holds_one_file_for_each_sample(storage_uri: str, tmp_path: Path) -> None:
    write_set(f"{storage_uri}/set")
    export_samples(f"{storage_uri}/set", "png-folder", f"{storage_uri}/out")
    folder = local_path(f"{storage_uri}/out", tmp_path)
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names == [f"{index:08d}.png" for index in range(25)]
    for index, name in enumerate(names):
        np.testing.assert_array_equal(decode_png((folder / name).read_bytes()), image_of(index))


def test_webdataset_holds_pictures_and_provenance(storage_uri: str) -> None:
    write_set(f"{storage_uri}/set")
    written = export_samples(f"{storage_uri}/set", "webdataset", f"{storage_uri}/out")
    assert written.num_files == 3
    store = open_store(f"{storage_uri}/out")
    seen = []
    for shard in range(3):
        with tarfile.open(fileobj=io.BytesIO(store.read_bytes(f"{shard:05d}.tar"))) as archive:
            for member in archive:
                key, _, suffix = member.name.partition(".")
                data = archive.extractfile(member).read()  # type: ignore[union-attr]
                seen.append((int(key), suffix))
                if suffix == "json":
                    row = json.loads(data)
                    assert row["sample_index"] == int(key)
                    assert row["neighbor_ids"] == [int(key), int(key) + 1]
                    assert "image" not in row
                    assert "prompt" not in row
                else:
                    np.testing.assert_array_equal(decode_png(data), image_of(int(key)))
    assert seen == [(index, suffix) for index in range(25) for suffix in ("png", "json")]


@pytest.mark.parametrize("form", ["png-folder", "webdataset"])
def test_an_export_that_was_cut_short_is_completed(form: ExportFormat, tmp_path: Path) -> None:
    write_set(str(tmp_path / "set"))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    written = export_samples(str(tmp_path / "set"), form, str(whole))
    export_samples(str(tmp_path / "set"), form, str(cut))
    (cut / "_SUCCESS.json").unlink()
    files = sorted(path for path in cut.iterdir() if path.name != "export.json")
    for path in files[1:]:
        path.unlink()
    kept = files[0].stat().st_mtime_ns
    assert export_samples(str(tmp_path / "set"), form, str(cut)) == written
    if form == "webdataset":
        assert files[0].stat().st_mtime_ns == kept
    assert {p.name: p.read_bytes() for p in cut.iterdir()} == {
        p.name: p.read_bytes() for p in whole.iterdir()
    }


def test_a_folder_of_another_set_is_refused(tmp_path: Path) -> None:
    write_set(str(tmp_path / "a"))
    write_set(str(tmp_path / "b"), make_header(num_samples=12))
    export_samples(str(tmp_path / "a"), "png-folder", str(tmp_path / "out"))
    with pytest.raises(SampleSetError, match="holds the png-folder export of 25 other samples"):
        export_samples(str(tmp_path / "b"), "png-folder", str(tmp_path / "out"))
    with pytest.raises(SampleSetError, match="holds the png-folder export"):
        export_samples(str(tmp_path / "a"), "webdataset", str(tmp_path / "out"))


def test_a_finished_npz_is_known_again_and_another_sets_is_kept(tmp_path: Path) -> None:
    write_set(str(tmp_path / "set"))
    written = export_samples(str(tmp_path / "set"), "adm-npz", str(tmp_path / "a.npz"))
    before = (tmp_path / "a.npz").read_bytes()
    # As after a kill between the file's last byte and the end of the command.
    assert export_samples(str(tmp_path / "set"), "adm-npz", str(tmp_path / "a.npz")) == written
    assert (tmp_path / "a.npz").read_bytes() == before
    np.savez(tmp_path / "b.npz", arr_0=np.zeros(3))
    with pytest.raises(SampleSetError, match=r"b\.npz: exists already"):
        export_samples(str(tmp_path / "set"), "adm-npz", str(tmp_path / "b.npz"))


def test_what_stands_in_the_way_is_left_alone(tmp_path: Path) -> None:
    write_set(str(tmp_path / "set"))
    (tmp_path / "a.npz").write_bytes(b"precious")
    with pytest.raises(SampleSetError, match=r"a\.npz: exists already"):
        export_samples(str(tmp_path / "set"), "adm-npz", str(tmp_path / "a.npz"))
    assert (tmp_path / "a.npz").read_bytes() == b"precious"
    with pytest.raises(SampleSetError, match="is not empty"):
        export_samples(str(tmp_path / "set"), "png-folder", str(tmp_path / "set"))
    with pytest.raises(SampleSetError, match=r"needed a name in \.npz"):
        export_samples(str(tmp_path / "set"), "adm-npz", str(tmp_path / "b"))


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_an_incomplete_set_is_exported_only_when_asked(form: ExportFormat, tmp_path: Path) -> None:
    header = make_header()
    sample_set = SampleSet.create_or_resume(str(tmp_path / "set"), header)
    with pytest.raises(SampleSetError, match="holds no samples yet"):
        export_samples(str(tmp_path / "set"), form, str(tmp_path / "out.npz"), allow_partial=True)
    sample_set.commit_shard(1, make_rows(header, 1))
    with pytest.raises(SampleSetError, match="has 10 of 25 samples"):
        export_samples(str(tmp_path / "set"), form, str(tmp_path / "out.npz"))
    assert not (tmp_path / "out.npz").exists()
    written = export_samples(
        str(tmp_path / "set"), form, str(tmp_path / "out.npz"), allow_partial=True
    )
    assert written.num_samples == 10


def test_a_damaged_picture_is_named_and_no_file_appears(tmp_path: Path) -> None:
    header = make_header(num_samples=10)
    sample_set = SampleSet.create_or_resume(str(tmp_path / "set"), header)
    rows = make_rows(header, 0)
    images = rows.column("image").to_pylist()
    picture = images[3]["bytes"]
    images[3]["bytes"] = picture[:40] + b"\0" * 60 + picture[100:]
    field = rows.schema.field("image")
    sample_set.commit_shard(0, rows.set_column(0, field, pa.array(images, field.type)))
    sample_set.finish()
    with pytest.raises(SampleSetError, match="sample 3: not a PNG"):
        export_samples(str(tmp_path / "set"), "adm-npz", str(tmp_path / "a.npz"))
    assert {p.name for p in tmp_path.iterdir()} == {"set"}


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    peaks = []
    for num_samples in (400, 1600):
        write_set(str(tmp_path / f"{num_samples}"), make_header(num_samples, shard_size=200))
        tracemalloc.start()
        export_samples(
            str(tmp_path / f"{num_samples}"), "adm-npz", str(tmp_path / f"{num_samples}.npz")
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The array grows by 1,200 images; what is held at once must not.
    assert peaks[1] - peaks[0] < 1200 * SIZE * SIZE * 3 / 4


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(str(tmp_path / "set"))
    arguments = ["export", str(tmp_path / "set"), "--format", "webdataset"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "25 samples in 3 files" in capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "set")]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_export_starts_without_ray(tmp_path: Path) -> None:
    code = "import sys, rdm_batch.export; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_sound_set_has_no_damage(storage_uri: str) -> None:
    write_set(storage_uri)
    assert damage_of(storage_uri) == []


def test_every_damaged_and_missing_shard_is_named(storage_uri: str) -> None:
    write_set(storage_uri, make_header(num_samples=65))
    stored = open_store(storage_uri)
    content = bytearray(stored.read_bytes("data/00001.parquet"))
    content[len(content) // 3] ^= 1
    stored.write_bytes("data/00001.parquet", bytes(content))
    sizes = {shard: stored.size(f"data/0000{shard}.parquet") for shard in (2, 3)}
    stored.write_bytes("data/00002.parquet", b"cut")
    stored.delete("data/00003.parquet")
    stored.delete("_shards/00004.json")
    stored.write_bytes("_shards/00005.json", b"{}")
    not_stored, unreadable, *others = damage_of(storage_uri)
    assert not_stored == "shard 4 is not stored"
    assert unreadable.startswith(f"{storage_uri}/_shards/00005.json: is damaged")
    assert others == [
        "data/00001.parquet has other content than its digest says",
        f"data/00002.parquet has 3 bytes; needed {sizes[2]:,} bytes",
        f"data/00003.parquet is missing; needed {sizes[3]:,} bytes",
    ]


def test_a_set_that_was_not_finished_or_was_changed_since_is_not_sound(tmp_path: Path) -> None:
    header = make_header()
    write_set(str(tmp_path))
    success = (tmp_path / "_SUCCESS.json").read_bytes()
    (tmp_path / "_SUCCESS.json").unlink()
    assert damage_of(str(tmp_path)) == ["_SUCCESS.json is missing: the job did not finish"]
    (tmp_path / "_SUCCESS.json").write_bytes(b"{")
    (problem,) = damage_of(str(tmp_path))
    assert problem == f"{tmp_path}/_SUCCESS.json: is damaged: not a JSON object"
    (tmp_path / "_SUCCESS.json").write_bytes(success)
    (tmp_path / "_shards" / "00000.json").unlink()
    rows = make_rows(header, 0)
    other = rows.set_column(2, rows.schema.field("seed"), [[4] * 10])
    SampleSet.create_or_resume(str(tmp_path), header).commit_shard(0, other)
    assert damage_of(str(tmp_path)) == ["_SUCCESS.json sums up other shards than are stored"]


def test_checking_where_no_set_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(SampleSetError, match="holds no sample set"):
        damage_of(str(tmp_path))
