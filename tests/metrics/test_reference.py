from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import MetricError
from rdm_batch.metrics.reference import ReferenceStatistics
from tests.metrics.examples import cloud, feature_set


@pytest.mark.parametrize("keep", [True, False])
def test_saved_statistics_load_unchanged(tmp_path: Path, keep: bool) -> None:
    built = ReferenceStatistics.from_features(feature_set(cloud(30, 5, seed=0)), keep)
    built.save(tmp_path / "ref.npz")
    loaded = ReferenceStatistics.load(tmp_path / "ref.npz")
    assert (loaded.extractor, loaded.source, loaded.digest) == (
        built.extractor,
        built.source,
        built.digest,
    )
    np.testing.assert_array_equal(loaded.gaussian("f").covariance, built.gaussian("f").covariance)
    np.testing.assert_array_equal(loaded.gaussian("f").mean, built.gaussian("f").mean)
    assert loaded.gaussian("f").count == 30
    assert list(loaded.features) == (["f"] if keep else [])


def test_digest_names_the_features_kept_or_not() -> None:
    features = feature_set(cloud(30, 5, seed=0))
    kept = ReferenceStatistics.from_features(features)
    moments_only = ReferenceStatistics.from_features(features, keep_features=False)
    other = ReferenceStatistics.from_features(feature_set(cloud(30, 5, seed=1)))
    assert kept.digest == moments_only.digest
    assert kept.digest != other.digest


def test_missing_features_and_layers_say_what_to_do() -> None:
    reference = ReferenceStatistics.from_features(feature_set(cloud(30, 5, seed=0)), False)
    with pytest.raises(MetricError, match="or statistics with their features kept"):
        reference.rows("f")
    with pytest.raises(MetricError, match=r"no moments of layer 'g'; needed one of \['f'\]"):
        reference.gaussian("g")


@pytest.mark.parametrize("damage", ["truncated", "not a zip", "missing"])
def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ref.npz"
    ReferenceStatistics.from_features(feature_set(cloud(30, 5, seed=0))).save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:700])
    elif damage == "not a zip":
        path.write_text("hello")
    else:
        path.unlink()
    with pytest.raises(MetricError, match=r"ref\.npz: not readable"):
        ReferenceStatistics.load(path)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "ref.npz"
    np.savez(path, header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(MetricError, match="not readable"):
        ReferenceStatistics.load(path)
