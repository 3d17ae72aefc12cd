from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdm_batch.datasets.fit import fit_image
from rdm_batch.datasets.folder import ImageFolder
from rdm_batch.errors import ImageError, MetricError, SampleSetError
from rdm_batch.evaluation.features import (
    extract_part,
    features_key,
    load_features,
    parts_without_features,
    store_features,
)
from rdm_batch.inputs.image_sets import ImageSet, SampleImages, open_image_set
from rdm_batch.inputs.references import open_reference
from rdm_batch.metrics.features import ExtractorDescription, FeatureSet
from rdm_batch.specs.image_resize import ImageResize
from rdm_batch.storage.manifest import SampleSetHeader
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.table import make_table


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rdm_batch.inputs.image_sets.PART_IMAGES", 10)
    return tmp_path / "cache"


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 8, 6, 3), dtype=np.uint8)


def _write_folder(root: Path, images: np.ndarray) -> Path:
    root.mkdir()
    for index, image in enumerate(images):
        (root / f"{index:03d}.png").write_bytes(encode_png(image))
    return root


def _write_parquet(path: Path, images: np.ndarray) -> Path:
    rows = [{"bytes": encode_png(image), "path": None} for image in images]
    pq.write_table(pa.table({"image": rows}), path)
    return path


def _write_npz(path: Path, images: np.ndarray) -> Path:
    np.savez(path, images)
    return path


def _write_sample_set(root: Path, images: np.ndarray, shards: list[int]) -> Path:
    header = SampleSetHeader(
        spec={}, digest="0" * 64, seed=1, num_samples=24, shard_size=7, image_size=8
    )
    sample_set = SampleSet.create_or_resume(str(root), header)
    for shard in shards:
        indices = np.array(header.rows_of(shard))
        pixels = [encode_png(images[index]) for index in indices]
        sample_set.commit_shard(shard, make_table(sample_indices=indices, images=pixels, seed=1))
    if len(shards) == header.num_shards:
        sample_set.finish()
    return root


def _read(opened: ImageSet) -> tuple[list[int], np.ndarray]:
    batches = [batch for part in opened.parts for batch in opened.batches(part)]
    ids = np.concatenate([ids for ids, _ in batches])
    return ids.tolist(), np.concatenate([pixels for _, pixels in batches])


@pytest.mark.parametrize(
    ("name", "write"),
    [("folder", _write_folder), ("a.parquet", _write_parquet), ("a.npz", _write_npz)],
)
def test_every_kind_gives_the_same_images_in_parts(
    tmp_path: Path, images: np.ndarray, name: str, write
) -> None:
    opened = open_image_set(str(write(tmp_path / name, images)))
    assert [(part.first, part.num_images) for part in opened.parts] == [(0, 10), (10, 10), (20, 4)]
    ids, pixels = _read(opened)
    assert ids == list(range(24))
    np.testing.assert_array_equal(pixels, images)
    assert not opened.partial


@pytest.mark.parametrize(("part_images", "parts"), [(5, [7, 7, 7, 3]), (14, [14, 10]), (256, [24])])
def test_a_sample_set_gives_its_samples_in_parts_of_whole_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_images: int, parts: list[int]
) -> None:
    monkeypatch.setattr("rdm_batch.inputs.image_sets.SET_PART_IMAGES", part_images)
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    opened = open_image_set(str(_write_sample_set(tmp_path / "set", images, [0, 1, 2, 3])))
    assert isinstance(opened, SampleImages)
    assert [part.num_images for part in opened.parts] == parts
    ids, pixels = _read(opened)
    assert ids == list(range(24))
    np.testing.assert_array_equal(pixels, images)


def test_batches_go_across_the_borders_of_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdm_batch.inputs.image_sets.SET_BATCH_IMAGES", 10)
    images = np.zeros((24, 8, 8, 3), dtype=np.uint8)
    opened = open_image_set(str(_write_sample_set(tmp_path / "set", images, [0, 1, 2, 3])))
    (part,) = opened.parts
    assert [len(ids) for ids, _ in opened.batches(part)] == [10, 10, 4]


def test_a_missing_shard_ends_a_part(tmp_path: Path) -> None:
    images = np.zeros((24, 8, 8, 3), dtype=np.uint8)
    uri = str(_write_sample_set(tmp_path / "set", images, [0, 2, 3]))
    opened = open_image_set(uri, allow_partial=True)
    assert [(part.first, part.num_images) for part in opened.parts] == [(0, 7), (14, 10)]


def test_an_incomplete_sample_set_needs_permission(tmp_path: Path) -> None:
    images = np.zeros((24, 8, 8, 3), dtype=np.uint8)
    uri = str(_write_sample_set(tmp_path / "set", images, [0, 2]))
    with pytest.raises(SampleSetError, match=r"has 14 of 24 samples \(shards missing: 1, 3\)"):
        open_image_set(uri)
    opened = open_image_set(uri, allow_partial=True)
    assert opened.partial
    assert _read(opened)[0] == [*range(7), *range(14, 21)]


def test_an_empty_sample_set_is_refused_even_with_permission(tmp_path: Path) -> None:
    uri = str(_write_sample_set(tmp_path / "set", np.zeros((24, 8, 8, 3), np.uint8), []))
    with pytest.raises(SampleSetError, match="no shard is stored yet"):
        open_image_set(uri, allow_partial=True)


def test_shapes_are_images_too() -> None:
    opened = open_image_set("shapes:reference:12")
    assert _read(opened)[1].shape[0] == 12


def test_images_of_several_sizes_are_refused_with_counts(
    tmp_path: Path, images: np.ndarray
) -> None:
    root = _write_folder(tmp_path / "folder", images)
    for name in ("012", "017"):
        (root / f"{name}.png").write_bytes(encode_png(np.zeros((9, 6, 3), np.uint8)))
    with pytest.raises(
        MetricError, match=r"22 of 6 x 8, 2 of 6 x 9; 012\.png is 6 x 9; needed images of one size"
    ):
        _read(open_image_set(str(root)))


def test_a_parquet_of_several_sizes_is_refused_with_counts(tmp_path: Path) -> None:
    sizes = [(8, 6)] * 15 + [(6, 8), (8, 6), (9, 9)]
    rows = [{"bytes": encode_png(np.zeros((*s, 3), np.uint8)), "path": None} for s in sizes]
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    with pytest.raises(MetricError, match=r"16 of 6 x 8, 1 of 8 x 6, 1 of 9 x 9; a\.parquet#15"):
        _read(open_image_set(str(tmp_path / "a.parquet")))


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        open_image_set(str(tmp_path / "absent"))


class _Mean:
    """An extractor that counts the images it has seen."""

    description = ExtractorDescription(
        name="mean", digest="ab" * 32, image_size=8, resize="none", layers={"mean": 3}
    )

    def __init__(self) -> None:
        self.seen = 0

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.seen += len(images)
        return {"mean": images.mean(axis=(1, 2)).astype(np.float32)}


def test_features_of_a_folder_are_kept_in_the_cache_and_resumed(
    tmp_path: Path, images: np.ndarray, cache: Path
) -> None:
    root = _write_folder(tmp_path / "folder", images)
    before = sorted(path.name for path in root.iterdir())
    extractor = _Mean()
    opened = open_image_set(str(root))
    store_features(opened, opened.parts[1], extract_part(opened, opened.parts[1], extractor))

    again = open_image_set(str(root))
    missing = parts_without_features(again, "ab" * 32)
    assert [part.number for part in missing] == [0, 2]
    for part in missing:
        store_features(again, part, extract_part(again, part, extractor))
    assert extractor.seen == 24
    np.testing.assert_array_equal(
        load_features(again, "ab" * 32).layer("mean"), images.mean(axis=(1, 2)).astype(np.float32)
    )
    assert sorted(path.name for path in root.iterdir()) == before
    assert any(cache.rglob("*.npz"))


def test_a_changed_file_makes_kept_features_void(tmp_path: Path, images: np.ndarray) -> None:
    path = _write_npz(tmp_path / "a.npz", images)
    opened = open_image_set(str(path))
    for part in opened.parts:
        store_features(opened, part, extract_part(opened, part, _Mean()))
    assert parts_without_features(opened, "ab" * 32) == []
    _write_npz(path, images[::-1])
    assert len(parts_without_features(open_image_set(str(path)), "ab" * 32)) == 3


def test_layers_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    description = ExtractorDescription(
        name="two", digest="cd" * 32, image_size=8, resize="none", layers={"a": 2, "b": 3}
    )
    layers = {"a": np.zeros((4, 2), np.float32), "b": np.ones((4, 3), np.float32)}
    FeatureSet(description, np.arange(4), layers, "memory").save(tmp_path / "f.npz")
    loaded = FeatureSet.load(tmp_path / "f.npz", without=["b"])
    assert list(loaded.layers) == ["a"]
    with pytest.raises(MetricError, match="no feature layer 'b'"):
        loaded.layer("b")


SIZES = [(40, 61), (61, 40), (40, 61), (50, 50)]
RESIZE = ImageResize(size=16)


def _photographs(kind: str, root: Path) -> tuple[Path, list[np.ndarray]]:
    draw = np.random.default_rng(0).integers
    photographs = [draw(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    if kind == "parquet":
        rows = [{"bytes": encode_png(image), "path": None} for image in photographs]
        pq.write_table(pa.table({"image": rows}), root / "a.parquet")
        return root / "a.parquet", photographs
    return _write_folder(root / "folder", photographs), photographs


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_images_of_several_sizes_are_told_before_any_is_used(tmp_path: Path, kind: str) -> None:
    path, _ = _photographs(kind, tmp_path)
    with pytest.raises(MetricError) as caught:
        open_reference(str(path))
    message = str(caught.value)
    assert "images of several sizes: 2 of 61 x 40, 1 of 40 x 61, 1 of 50 x 50" in message
    assert "evaluation.resize, or --resize-to" in message


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_images_of_several_sizes_are_brought_to_one(tmp_path: Path, kind: str) -> None:
    path, photographs = _photographs(kind, tmp_path)
    images = open_reference(str(path), resize=RESIZE).images
    assert images is not None
    _, pixels = _read(images)
    expected = [fit_image(image, RESIZE) for image in photographs]
    np.testing.assert_array_equal(pixels, np.stack(expected))


def test_every_recipe_has_features_of_its_own(tmp_path: Path) -> None:
    path, _ = _photographs("folder", tmp_path)
    recipes = [
        None,
        RESIZE,
        ImageResize(size=17),
        ImageResize(size=16, filter="lanczos"),
        ImageResize(size=16, crop="none"),
    ]
    opened = [open_image_set(str(path), resize=recipe) for recipe in recipes]
    keys = {images.store.child_uri(features_key("0" * 64, images.parts[0])) for images in opened}
    assert len(keys) == len(recipes)


def test_images_that_have_the_size_share_their_features(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    for uri in (
        str(_write_sample_set(tmp_path / "set", images, [0, 1, 2, 3])),
        str(_write_npz(tmp_path / "a.npz", images)),
    ):
        plain = open_image_set(uri)
        same = open_image_set(uri, resize=ImageResize(size=8))
        other = open_image_set(uri, resize=ImageResize(size=9))
        assert plain.parts == same.parts != other.parts
        np.testing.assert_array_equal(_read(plain)[1], _read(same)[1])
        assert _read(other)[1].shape == (24, 9, 9, 3)


def test_only_so_many_headers_are_read_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = _photographs("folder", tmp_path)
    monkeypatch.setattr("rdm_batch.inputs.image_sets._LOOKED_AT", 2)
    asked: list[int] = []
    size = ImageFolder.size

    def counted(self: ImageFolder, index: int) -> tuple[int, int]:
        asked.append(index)
        return size(self, index)

    monkeypatch.setattr(ImageFolder, "size", counted)
    open_image_set(str(path)).check_sizes()
    assert asked == [0, 2]
