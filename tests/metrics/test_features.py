from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import MetricError
from rdm_batch.metrics.features import EncoderFeatures, FeatureExtractor, FeatureSet
from tests.metrics.examples import cloud, describe, feature_set


class MeanColor:
    """An encoder whose embedding of an image is its mean color."""

    name = "mean-color"
    digest = "cd" * 32
    dim = 3
    image_size = 8

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)


def test_saved_features_load_unchanged(tmp_path: Path) -> None:
    features = feature_set(cloud(20, 6, seed=0))
    features.save(tmp_path / "a.npz")
    loaded = FeatureSet.load(tmp_path / "a.npz")
    assert loaded.extractor == features.extractor
    assert loaded.source == features.source
    np.testing.assert_array_equal(loaded.ids, features.ids)
    np.testing.assert_array_equal(loaded.layers["f"], features.layers["f"])


@pytest.mark.parametrize("damage", ["truncated", "not a zip", "other npz", "missing"])
def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    feature_set(cloud(20, 6, seed=0)).save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "not a zip":
        path.write_text("hello")
    elif damage == "other npz":
        np.savez(path, x=np.zeros(3))
    else:
        path.unlink()
    with pytest.raises(MetricError, match=r"a\.npz: not readable"):
        FeatureSet.load(path)


def test_parts_join_in_sample_order_whatever_their_order() -> None:
    rows = cloud(10, 4, seed=0)
    ids = np.arange(10, dtype=np.int64)
    first = FeatureSet(describe(4), ids[5:], {"f": rows[5:]}, "b")
    second = FeatureSet(describe(4), ids[:5], {"f": rows[:5]}, "a")
    joined = FeatureSet.concatenate([first, second], "set")
    np.testing.assert_array_equal(joined.ids, ids)
    np.testing.assert_array_equal(joined.layers["f"], rows)


def test_a_sample_twice_is_refused_with_counts() -> None:
    part = feature_set(cloud(5, 4, seed=0))
    with pytest.raises(MetricError, match="5 of 10 samples are duplicates, sample 0 first"):
        FeatureSet.concatenate([part, part], "s3://out/a")


def test_features_of_two_extractors_do_not_join() -> None:
    first = feature_set(cloud(5, 4, seed=0))
    second = feature_set(cloud(5, 4, seed=0), digest="ef" * 32)
    with pytest.raises(MetricError, match="features of 2 extractors"):
        FeatureSet.concatenate([first, second], "set")


def test_nothing_does_not_join() -> None:
    with pytest.raises(MetricError, match="no features"):
        FeatureSet.concatenate([], "set")


def test_rows_must_match_the_ids_and_the_description() -> None:
    ids = np.arange(4, dtype=np.int64)
    with pytest.raises(MetricError, match="5 rows in layer f; needed 4, one per sample"):
        FeatureSet(describe(3), ids, {"f": cloud(5, 3, seed=0)}, "set")
    with pytest.raises(MetricError, match="feature layers"):
        FeatureSet(describe(3), ids, {"f": cloud(4, 2, seed=0)}, "set")


def test_an_encoder_serves_as_extractor() -> None:
    extractor = EncoderFeatures(MeanColor())
    assert isinstance(extractor, FeatureExtractor)
    assert extractor.description.layers == {"embedding": 3}
    assert extractor.description.digest == MeanColor.digest
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    images[1, :, :, 2] = 50
    np.testing.assert_array_equal(extractor.extract(images)["embedding"], [[0, 0, 0], [0, 0, 50]])
