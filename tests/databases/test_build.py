from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from rdm_batch.databases import build as building
from rdm_batch.databases import encode, parts, room
from rdm_batch.databases.build import build_database
from rdm_batch.databases.describe import check_database, describe_database
from rdm_batch.databases.encode import make_thumbnail
from rdm_batch.datasets.folder import ImageFolder
from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.errors import DatabaseError, ImageError, SpecError
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest, check_files
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.proposal import count_neighbors
from rdm_batch.specs.database import DatabaseBuild, EncodeSettings, IndexSettings
from tests.fixtures.fake_encoder import FakeEncoder

Build = Callable[..., DatabaseManifest]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def run(make_encoder: Callable[[str], Any] = FakeEncoder, **request: Any) -> DatabaseManifest:
        request = {"out": str(tmp_path / "db")} | request
        with Progress(Console(file=io.StringIO())) as progress:
            return build_database(DatabaseBuild(**request), make_encoder, progress)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images of different sizes and kinds, two of them damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, (name, size) in enumerate(
        [("a.png", (40, 30)), ("b.jpg", (30, 40)), ("c.webp", (25, 25)), ("d.png", (9, 80))]
    ):
        pixels = random.integers(0, 256, (*size[::-1], 3), dtype=np.uint8) // (number + 1)
        Image.fromarray(pixels).save(folder / name)
    Image.new("L", (20, 20), 200).save(folder / "e.png")
    (folder / "damaged.png").write_bytes((folder / "a.png").read_bytes()[:-50])
    (folder / "empty.jpg").write_bytes(b"")
    return folder


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_shapes_become_a_searchable_database(build: Build, tmp_path: Path) -> None:
    manifest = build(images="shapes:database:600", shards=2)
    assert manifest == Database.open(str(tmp_path / "db")).manifest
    assert (manifest.rows, manifest.dim, manifest.dtype) == (600, 24, "float16")
    assert [shard.rows for shard in manifest.shards] == [300, 300]
    check_files(tmp_path / "db", manifest.files(), digests=True)
    listed = {file.path for file in manifest.files()} | {"database.json"}
    assert set(contents(tmp_path / "db")) == listed

    source = ShapesSource("database", 600)
    expected = FakeEncoder().encode_images([source[i].image for i in range(600)])
    stored = open_database(tmp_path / "db").fetch(np.arange(600))
    np.testing.assert_array_equal(stored, expected.astype(np.float16).astype(np.float32))
    queries = expected[[5, 599]]
    found = open_database(tmp_path / "db").search(queries, 7)
    np.testing.assert_array_equal(found.ids, exact_top_k(stored, queries, 7)[0])
    assert found.ids[:, 0].tolist() == [5, 599]


def test_rows_carry_identity_caption_and_thumbnail(build: Build, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    build(images="shapes:style:40:dotted,hatched")
    table = pq.read_table(tmp_path / "db/embeddings/shard-00000.parquet").to_pylist()
    source = ShapesSource("style", 40, ["dotted", "hatched"])
    assert [row["row_id"] for row in table] == list(range(40))
    assert [row["item_id"] for row in table] == [item.item_id for item in source]
    assert [row["caption"] for row in table] == [item.caption for item in source]
    assert {row["patch_coords"] for row in table} == {None}
    png = open_database(tmp_path / "db").thumbnails(np.array([7]))[0]
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert np.abs(pixels - source[7].image.astype(int)).mean() < 4


def test_damaged_images_are_left_out_and_listed(build: Build, photos: Path, tmp_path: Path) -> None:
    manifest = build(images=str(photos))
    assert manifest.rows == manifest.source.images == 5
    assert len(manifest.source.skipped) == 2
    assert "damaged.png" in manifest.source.skipped[0]
    assert "empty.jpg" in manifest.source.skipped[1]


def test_strict_fails_on_the_first_damaged_image(
    build: Build, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=r"damaged\.png"):
        build(images=str(photos), encode=EncodeSettings(strict=True))
    assert not (tmp_path / "db/database.json").exists()
    build(images=str(photos))
    with pytest.raises(ImageError, match=r"2 damaged images, the first: .*damaged\.png"):
        build(images=str(photos), encode=EncodeSettings(strict=True))


def test_patches_are_cut_encoded_and_recorded(build: Build, photos: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    settings = EncodeSettings(patches=3, patch_seed=5, dtype="float32")
    manifest = build(images=str(photos), encode=settings)
    assert (manifest.rows, manifest.source.images) == (15, 5)
    assert (manifest.source.patches_per_image, manifest.source.patch_seed) == (3, 5)
    source = {}
    folder = ImageFolder(photos)
    for index, name in enumerate(folder.names):
        if name not in ("damaged.png", "empty.jpg"):
            source[name] = folder[index].image
    table = pq.read_table(tmp_path / "db/embeddings/shard-00000.parquet").to_pylist()
    crops = []
    for row in table:
        x0, y0, x1, y1 = row["patch_coords"]
        assert x1 - x0 == y1 - y0
        crops.append(source[row["item_id"]][y0:y1, x0:x1])
    np.testing.assert_array_equal(
        np.array([row["embedding"] for row in table], dtype=np.float32),
        FakeEncoder().encode_images(crops),
    )
    assert len({tuple(row["patch_coords"]) for row in table}) > 10


def test_large_images_are_encoded_a_few_at_a_time(
    build: Build, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    class Watching(FakeEncoder):
        def encode_images(self, images: Any) -> Any:
            batches.append(sum(image.shape[0] * image.shape[1] for image in images))
            return super().encode_images(images)

    whole = build(images=str(photos), out=str(tmp_path / "whole"))
    monkeypatch.setattr(encode, "_BATCH_PIXELS", 1000)
    assert build(Watching, images=str(photos)).shards == whole.shards
    assert batches == [40 * 30, 30 * 40, 25 * 25 + 9 * 80, 20 * 20]


def test_parquet_tables_are_sources(build: Build, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    images = [{"bytes": stream.getvalue(), "path": None}] * 3
    pq.write_table(pa.table({"image": images, "caption": ["x", "y", "z"]}), tmp_path / "a.parquet")
    assert build(images=str(tmp_path / "a.parquet")).rows == 3


def test_building_again_finds_the_database_complete(build: Build, tmp_path: Path) -> None:
    first = build(images="shapes:database:300")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "db").rglob("*")}

    class Untouched(FakeEncoder):
        def encode_images(self, images: Any) -> Any:
            raise AssertionError("a complete database was encoded again")

    assert build(Untouched, images="shapes:database:300") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "db").rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": "shapes:database:301"}, "images 'shapes:database:300' instead of"),
        ({"shards": 2}, "shards 1 instead of 2"),
        ({"encode": EncodeSettings(dtype="float32")}, "dtype 'float16' instead of 'float32'"),
        ({"make_encoder": lambda _: FakeEncoder(digest="0" * 64)}, "encoder_digest 'ffff"),
    ],
)
def test_another_database_is_never_overwritten(
    build: Build, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    build(images="shapes:database:300")
    before = contents(tmp_path / "db")
    with pytest.raises(DatabaseError, match=message):
        build(**({"images": "shapes:database:300"} | change))
    assert contents(tmp_path / "db") == before


def test_a_folder_with_other_files_is_refused(build: Build, tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db/thesis.txt").write_text("precious")
    with pytest.raises(DatabaseError, match="holds other files"):
        build(images="shapes:database:10")
    assert contents(tmp_path / "db") == {"thesis.txt": b"precious"}


def test_a_build_that_died_at_once_starts_again(build: Build, tmp_path: Path) -> None:
    (tmp_path / "db/.build").mkdir(parents=True)
    (tmp_path / "db/.build/lock").touch()
    (tmp_path / "db/.build/request.json.partial").write_text("{")
    assert build(images="shapes:database:10").rows == 10


def test_a_damaged_database_is_not_called_complete(build: Build, tmp_path: Path) -> None:
    build(images="shapes:database:50")
    path = tmp_path / "db/embeddings/shard-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatabaseError, match=r"shard-00000\.parquet.*remove the damaged database"):
        build(images="shapes:database:50")


@pytest.mark.parametrize("interrupted_at", ["encoding", "indexing"])
def test_an_interrupted_build_resumes_to_the_same_database(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: str
) -> None:
    monkeypatch.setattr(encode, "PART_IMAGES", 50)
    request = {"images": "shapes:database:300", "shards": 3}
    build(out=str(tmp_path / "whole"), **request)
    encoded: list[int] = []

    class Counting(FakeEncoder):
        def encode_images(self, images: Any) -> Any:
            if interrupted_at == "encoding" and len(encoded) == 4:
                raise KeyboardInterrupt
            encoded.append(len(images))
            return super().encode_images(images)

    written: list[int] = []
    put_index = parts.put_index

    def interrupted(root: Path, number: int, *rest: Any) -> Any:
        if interrupted_at == "indexing" and len(written) == 2:
            written.append(-1)
            raise KeyboardInterrupt
        written.append(number)
        return put_index(root, number, *rest)

    monkeypatch.setattr(parts, "put_index", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(Counting, **request)
    assert not (tmp_path / "db/database.json").exists()
    with pytest.raises(DatabaseError, match="an unfinished build made with shards 3 instead of 2"):
        build(**(request | {"shards": 2}))
    interrupted_at = "never"
    done_before = sum(encoded)
    build(Counting, **request)
    assert sum(encoded) == 300
    assert done_before > 0
    assert sorted(number for number in written if number >= 0) == [0, 1, 2]
    assert contents(tmp_path / "db") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["request.json", "images/part-000000.parquet", "shard-00000.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"PAR1 nothing PAR1"])
def test_a_damaged_record_of_an_interrupted_build_is_one_error(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "_manifest", fail)
    with pytest.raises(KeyboardInterrupt):
        build(images="shapes:database:30")
    monkeypatch.undo()
    damaged = tmp_path / "db/.build" / name
    assert damaged.is_file()
    damaged.write_bytes(content)
    gone = f"the unfinished build {tmp_path / 'db'}" if name == "request.json" else "it"
    with pytest.raises(DatabaseError, match=rf"{damaged}: damaged \(.*remove {gone}, and run"):
        build(images="shapes:database:30")
    if name == "request.json":
        shutil.rmtree(tmp_path / "db")
    else:
        damaged.unlink()
    assert build(images="shapes:database:30").rows == 30


def test_two_builds_at_one_place_do_not_mix(build: Build, tmp_path: Path) -> None:
    class Rival(FakeEncoder):
        def encode_images(self, images: Any) -> Any:
            with pytest.raises(DatabaseError, match="another process is building here"):
                build(images="shapes:database:20")
            return super().encode_images(images)

    assert build(Rival, images="shapes:database:20").rows == 20


def test_proposal_counts_the_neighbors_of_the_training_set(build: Build, tmp_path: Path) -> None:
    manifest = build(
        images="shapes:database:200", shards=3, proposal_from="shapes:train:150", proposal_k=5
    )
    rows = open_database(tmp_path / "db").fetch(np.arange(200))
    training = ShapesSource("train", 150)
    queries = FakeEncoder().encode_images([item.image for item in training])
    expected = count_neighbors(exact_top_k(rows, queries, 5)[0])
    proposal = Database(str(tmp_path / "db"), manifest).proposal()
    assert proposal is not None
    np.testing.assert_array_equal(proposal.row_ids, expected.row_ids)
    np.testing.assert_array_equal(proposal.counts, expected.counts)
    assert proposal.counts.sum() == 5 * 150


def test_partitioned_shards_are_built_and_measured(build: Build, tmp_path: Path) -> None:
    settings = IndexSettings(kind="tree_ah", leaves=20)
    manifest = build(images="shapes:database:500", index=settings)
    assert manifest.shards[0].recall_at_20 is not None
    assert "leaves searched, recall@20" in describe_database(manifest)["shards"]
    check_files(tmp_path / "db", manifest.files(), digests=True)
    assert open_database(tmp_path / "db").rows == 500


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"shards": 11}, "10 rows for 11 shards"),
        ({"proposal_from": "shapes:train:5", "proposal_k": 11}, "11 neighbors of 10 rows"),
        ({"images": "shapes:nothing:10"}, "no subset 'nothing'"),
        ({"images": "shapes:database:ten"}, "shapes:SUBSET"),
        ({"images": "shapes:database:10:neon"}, "styles neon"),
        ({"images": "/nowhere"}, "does not exist"),
    ],
)
def test_impossible_requests_are_refused(
    build: Build, tmp_path: Path, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises((SpecError, ImageError), match=message):
        build(**({"images": "shapes:database:10"} | request_))
    assert not (tmp_path / "db/database.json").exists()


def test_a_source_without_readable_images_is_refused(build: Build, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match="none of 1 images is readable"):
        build(images=str(tmp_path / "photos"))
    (tmp_path / "photos/a.parquet").write_bytes(b"nothing")
    with pytest.raises(ImageError, match="1 image files beside 1 parquet files"):
        build(images=str(tmp_path / "photos"))


@pytest.mark.parametrize(("value", "found"), [(np.nan, "NaN"), (0.0, "norm 0"), (1e6, "infinite")])
def test_unusable_embeddings_name_their_image(build: Build, value: float, found: str) -> None:
    class Broken(FakeEncoder):
        def encode_images(self, images: Any) -> Any:
            rows = super().encode_images(images)
            rows[3] = value
            return rows

    with pytest.raises(DatabaseError, match=rf"shapes-database-00000003.*{found}"):
        build(Broken, images="shapes:database:10")


def test_check_finds_every_kind_of_damage(build: Build, tmp_path: Path) -> None:
    manifest = build(images="shapes:database:60", shards=3)
    uri = str(tmp_path / "db")
    progress = Progress(Console(file=io.StringIO()))
    assert check_database(uri, progress) == []
    paths = [tmp_path / "db" / shard.embeddings.path for shard in manifest.shards]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes() + b"x")
    content = bytearray(paths[2].read_bytes())
    content[100] ^= 1
    paths[2].write_bytes(content)
    problems = check_database(uri, progress)
    assert len(problems) == 3
    assert "is missing" in problems[0]
    assert "bytes; needed" in problems[1]
    assert "other content" in problems[2]
    assert Database.open(uri).manifest == manifest
    shutil.rmtree(tmp_path / "db")
    with pytest.raises(DatabaseError, match=r"no database\.json"):
        Database.open(uri)


def test_thumbnails_are_small_and_keep_their_shape() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (300, 150, 3), dtype=np.uint8)
    png = make_thumbnail(image, 64)
    assert Image.open(io.BytesIO(png)).size == (32, 64)
    tiny = make_thumbnail(image[:10, :12], 64)
    assert Image.open(io.BytesIO(tiny)).size == (12, 10)


def test_shards_of_more_than_four_gb_are_refused_before_anything_is_encoded(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SHARD_BYTES", 100 * 24 * 4)
    with pytest.raises(SpecError, match=r"--shards.*at least 3, for"):
        build(images="shapes:database:300", shards=2)
    assert [shard.rows for shard in build(images="shapes:database:300").shards] == [100] * 3


def test_a_ceiling_of_memory_is_refused_with_what_is_needed(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_BASE_BYTES", 0)
    rows, width = 300, 24
    each = rows * width * (2 + room._SCANN_BYTES) + 3 * 4 * rows * width
    ceiling = each / 1e9
    with pytest.raises(SpecError, match=r"--memory.* for 1 shards.*cut it into 2 shards") as caught:
        build(images=f"shapes:database:{rows}", memory=0.9 * ceiling)
    assert f"{each / 1e9:.2f} GB" in str(caught.value)
    assert build(images=f"shapes:database:{rows}", memory=ceiling).rows == rows


def test_the_estimate_of_memory_covers_what_a_million_rows_took() -> None:
    # Peak of the process that built a shard of them: benchmarks/results/at_scale.md.
    assert room.build_bytes(1, 1_000_000, 512, "float16", 1) > 9.39e9


def test_captions_are_embedded_to_tune_the_search_for_texts(build: Build) -> None:
    class Reading(FakeEncoder):
        def encode_texts(self, texts: Any) -> np.ndarray:
            random = np.random.default_rng(len(texts))
            return random.normal(size=(len(texts), self.dim)).astype(np.float32)

    settings = IndexSettings(kind="tree_soar", leaves=8)
    manifest = build(Reading, images="shapes:database:300", index=settings)
    tuned = manifest.shards[0].search_for("texts")
    assert tuned is not None
    assert tuned.source == "captions of the database"
    assert "captions of the database" in describe_database(manifest)["shards"]
