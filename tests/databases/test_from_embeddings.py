from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rdm_batch.cli import main
from rdm_batch.databases import embedding_files, room
from rdm_batch.databases.from_embeddings import build_from_embeddings
from rdm_batch.errors import DatabaseError, ImageError, RdmBatchError
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.proposal import count_neighbors
from rdm_batch.retrieval.row_records import RowRecord
from rdm_batch.specs.database_embeddings import DatabaseOfEmbeddings

DIM = 16


def _rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float16)


def _metadata(path: Path, count: int, start: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    numbers = range(start, start + count)
    table = {
        "caption": [f"caption {n}" if n % 3 else None for n in numbers],
        "url": [f"https://example.org/{n}.jpg" if n % 2 else None for n in numbers],
        "key": [f"{n:05d}" for n in numbers],
        "exif": [{"a": 1}] * count,
    }
    pq.write_table(pa.table(table), path)
    return path


def _build(out: Path, embeddings: Path, **others: Any) -> DatabaseManifest:
    request = DatabaseOfEmbeddings(
        embeddings=str(embeddings), out=str(out), encoder="ViT-B-32", **others
    )
    with Progress() as progress:
        return build_from_embeddings(request, progress)


def _assert_holds(database: Path, expected: np.ndarray) -> None:
    found = open_database(database).fetch(np.arange(len(expected)))
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def _record(database: Path, row: int) -> RowRecord:
    (record,) = open_database(database).records(np.array([row]))
    return record


@pytest.mark.parametrize("flat", [False, True])
def test_a_folder_of_clip_retrieval_keeps_its_order_captions_and_addresses(
    tmp_path: Path, flat: bool
) -> None:
    arrays, places = tmp_path / "x", ("", "") if flat else ("img_emb", "metadata")
    (arrays / places[0]).mkdir(parents=True)
    for number in range(11):  # as names, 10 would come before 2
        np.save(arrays / places[0] / f"img_emb_{number}.npy", _rows(6, number))
        _metadata(arrays / places[1] / f"metadata_{number}.parquet", 6, 6 * number)
    manifest = _build(tmp_path / "db", arrays, shards=2)
    assert (manifest.rows, manifest.dim, manifest.dtype) == (66, DIM, "float16")
    assert (manifest.encoder.name, manifest.encoder.digest) == ("ViT-B-32", None)
    _assert_holds(tmp_path / "db", np.concatenate([_rows(6, number) for number in range(11)]))
    records = [_record(tmp_path / "db", row) for row in (12, 13, 65)]
    assert [record.item_id for record in records] == ["00012", "00013", "00065"]
    assert [record.url for record in records] == [
        *(None, "https://example.org/13.jpg", "https://example.org/65.jpg")
    ]
    assert records[1].text == "caption 13 \u00b7 https://example.org/13.jpg"
    assert [record.caption for record in records] == [None, "caption 13", "caption 65"]


def test_a_single_array_serves_with_and_without_metadata(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _rows(7).astype(np.float64))
    metadata = _metadata(tmp_path / "m.parquet", 7)
    assert _build(tmp_path / "db", tmp_path / "a.npy", metadata=str(metadata)).dtype == "float32"
    assert _record(tmp_path / "db", 1).caption == "caption 1"
    _build(tmp_path / "plain", tmp_path / "a.npy")
    assert _record(tmp_path / "plain", 1).item_id == "a.npy#1"


def test_a_table_with_a_vector_column_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_files, "PIECE_ROWS", 4)
    rows = _rows(25).astype(np.float32)
    table = pa.table({"emb": rows.tolist(), "text": [f"t{n}" for n in range(25)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    _build(tmp_path / "db", tmp_path / "a.parquet", shards=3)
    _assert_holds(tmp_path / "db", rows)
    assert _record(tmp_path / "db", 24).caption == "t24"


def test_the_same_build_again_does_nothing_and_another_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _rows(7))
    first = _build(tmp_path / "db", tmp_path / "a.npy")
    assert _build(tmp_path / "db", tmp_path / "a.npy") == first
    np.save(tmp_path / "a.npy", _rows(8))
    with pytest.raises(RdmBatchError, match="holds a database made with embeddings"):
        _build(tmp_path / "db", tmp_path / "a.npy")


def _damage(folder: Path, what: str) -> Path:
    path, rows = folder / "img_emb_0.npy", _rows(6)
    if what == "nan":
        rows[4, 2] = np.nan
    if what == "zero":
        rows[5] = 0
    np.save(path, rows)
    np.save(folder / "img_emb_1.npy", _rows(6)[:, : DIM - (what == "widths")])
    for number in range(2):
        _metadata(folder / f"metadata_{number}.parquet", 6 - (what == "length" and number))
    if what == "half":
        path.write_bytes(path.read_bytes()[:-10])
    if what == "one without":
        (folder / "metadata_1.parquet").unlink()
    if what == "no table":
        (folder / "metadata_1.parquet").write_bytes(b"PAR1 nothing PAR1")
    if what == "integers":
        np.save(path, np.ones((6, DIM), np.int64))
    if what == "nothing":
        for file in folder.iterdir():
            file.unlink()
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", r"img_emb_0\.npy: row 4 holds NaN"),
        ("zero", r"img_emb_0\.npy: row 5 has norm 0"),
        ("widths", "files of 15 x float16; 16 x float16; needed one width"),
        ("length", r"metadata_1\.parquet: has 5 rows; needed 6, as img_emb_1\.npy has"),
        ("half", r"img_emb_0\.npy: unreadable \(is float16 of shape \(6, 16\), 192 bytes, but 182"),
        ("one without", r"no metadata for img_emb_1\.npy \(1 of 2 files\)"),
        ("no table", r"metadata_1\.parquet: unreadable"),
        ("integers", r"img_emb_0\.npy: holds int64 of shape"),
        ("nothing", r"holds no img_emb_\*\.npy"),
    ],
)
def test_what_cannot_be_used_is_one_error_before_work(
    tmp_path: Path, what: str, message: str
) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(RdmBatchError, match=message):
        _build(tmp_path / "db", _damage(tmp_path / "x", what))
    assert not (tmp_path / "db").exists()


def test_an_array_stored_column_by_column_is_read_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_files, "PIECE_ROWS", 4)
    np.save(tmp_path / "a.npy", np.asfortranarray(_rows(11)))
    _build(tmp_path / "db", tmp_path / "a.npy")
    _assert_holds(tmp_path / "db", _rows(11))


def _pictures(folder: Path, names: list[str]) -> str:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(folder / name)
    return str(folder)


def test_pictures_of_the_rows_become_thumbnails(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _rows(7))
    metadata = str(_metadata(tmp_path / "m.parquet", 7))
    names = [f"{n:05d}.png" for n in range(7)]
    pictures = _pictures(tmp_path / "pictures", names)
    manifest = _build(
        tmp_path / "db", tmp_path / "a.npy", metadata=metadata, pictures=pictures, shards=2
    )
    assert manifest.build["thumbnail_size"] == 64
    (png,) = open_database(tmp_path / "db").thumbnails(np.array([5]))
    assert Image.open(io.BytesIO(png)).convert("RGB").getpixel((3, 3)) == (100, 0, 0)
    few = _pictures(tmp_path / "few", names[:6])
    with pytest.raises(ImageError, match=r"few: holds 6 images; needed 7, one for each row"):
        _build(tmp_path / "other", tmp_path / "a.npy", pictures=few)
    swapped = _pictures(tmp_path / "swapped", [*names[:5], "00007.png", "00006.png"])
    with pytest.raises(DatabaseError, match=r"row 5: is 00005, and its picture 00006\.png"):
        _build(tmp_path / "other", tmp_path / "a.npy", metadata=metadata, pictures=swapped)


def test_neighbors_of_given_embeddings_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_files, "PIECE_ROWS", 20)
    np.save(tmp_path / "a.npy", _rows(40))
    np.save(tmp_path / "training.npy", _rows(50, 1))
    asked = {"proposal_from": str(tmp_path / "training.npy"), "proposal_k": 3}
    preview = _build(tmp_path / "db", tmp_path / "a.npy", **asked, proposal_sample=0.1)
    assert preview.counted is not None
    assert (preview.counted.images, preview.counted.share) == (5, 0.1)
    whole = _build(tmp_path / "db", tmp_path / "a.npy", **asked)
    assert whole == _build(tmp_path / "direct", tmp_path / "a.npy", **asked)
    queries = _rows(50, 1).astype(np.float32)
    expected = count_neighbors(exact_top_k(_rows(40), queries, 3)[0])
    found = Database.open(str(tmp_path / "db")).proposal()
    assert found is not None
    np.testing.assert_array_equal(found.row_ids, expected.row_ids)
    np.testing.assert_array_equal(found.counts, expected.counts)


def test_a_training_set_that_does_not_fit_is_one_error_before_work(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _rows(8))
    np.save(tmp_path / "wide.npy", np.ones((5, DIM + 1), np.float32))
    zero = _rows(5)
    zero[3] = 0
    np.save(tmp_path / "zero.npy", zero)
    for name, k, message in (
        ("wide", 4, r"wide\.npy: holds rows of 17 numbers; needed 16, as the database"),
        ("zero", 4, r"zero\.npy: row 3 has norm 0"),
        ("a", 9, r"--proposal-k: 9 neighbors of 8 rows"),
    ):
        with pytest.raises(RdmBatchError, match=message):
            _build(
                tmp_path / "db",
                tmp_path / "a.npy",
                proposal_from=str(tmp_path / f"{name}.npy"),
                proposal_k=k,
            )
        assert not (tmp_path / "db").exists()


def test_the_command_asks_for_the_encoder_and_for_nothing_of_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", _rows(7))
    command = ["database", "build", "--embeddings", str(tmp_path / "a.npy"), "--out"]
    command.append(str(tmp_path / "db"))
    for extra, message in (
        ([], "--encoder: is missing"),
        (["--encoder", "x", "--patches", "2"], "--patches: is of images"),
        (["--encoder", "x", "--images", "y"], "--images: is of images"),
        (["--encoder", "x", "--shards", "8"], "--shards: 8 of 7 rows"),
        (["--encoder", "x", "--memory", "0.1"], "--memory: 0.1 GB; needed 0."),
    ):
        assert main([*command, *extra]) == 1
        assert message in capsys.readouterr().err.splitlines()[-1]
    counted = ["--proposal-from", str(tmp_path / "a.npy"), "--proposal-k", "2"]
    assert main([*command, "--encoder", "ViT-B-32", *counted]) == 0
    printed = capsys.readouterr().out
    assert "encoder  ViT-B-32 (file not recorded)" in printed
    assert "proposal 2 neighbors of 7 images, by scann; exact" in printed
    assert main(["database", "build", "--out", str(tmp_path / "other")]) == 1
    assert "--images: is missing; needed images, or --embeddings" in capsys.readouterr().err


def test_without_a_number_there_are_as_many_shards_as_rows_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", _rows(90))
    one = _build(tmp_path / "one", tmp_path / "a.npy")
    assert one.build == _build(tmp_path / "said", tmp_path / "a.npy", shards=1).build
    monkeypatch.setattr(room, "SHARD_BYTES", 30 * DIM * 4)
    three = _build(tmp_path / "three", tmp_path / "a.npy")
    assert ([shard.rows for shard in three.shards], three.build["shards"]) == ([30] * 3, 3)
