from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import MetricError
from rdm_batch.metrics.adm import AdmFile
from rdm_batch.metrics.moments import gaussian_statistics
from tests.metrics.examples import cloud


def _images(count: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_parts_of_the_images_are_the_images(tmp_path: Path, save) -> None:
    path = tmp_path / "samples.npz"
    save(path, _images())
    file = AdmFile(path)
    assert file.num_images == 7
    parts = [file.read(4, 7), file.read(0, 4)]
    np.testing.assert_array_equal(np.concatenate(parts[::-1]), _images())
    assert file.moments() == {}


def test_images_beside_other_arrays_are_found(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3), arr_0=_images(), labels=np.arange(7))
    np.testing.assert_array_equal(AdmFile(path).read(2, 5), _images()[2:5])


def test_arrays_in_column_order_are_read_as_they_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, np.asfortranarray(_images()))
    np.testing.assert_array_equal(AdmFile(path).read(1, 3), _images()[1:3])


def test_moments_belong_to_their_layers(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    pooled, spatial = (gaussian_statistics(cloud(50, dim, seed=0)) for dim in (6, 4))
    np.savez(
        path,
        mu=pooled.mean.astype(np.float32),
        sigma=pooled.covariance,
        mu_s=spatial.mean,
        sigma_s=spatial.covariance,
    )
    found = AdmFile(path).moments()
    assert list(found) == ["2048", "spatial"]
    assert AdmFile(path).num_images == 0
    assert found["2048"].count is None
    np.testing.assert_array_equal(found["2048"].mean, pooled.mean.astype(np.float32))
    np.testing.assert_array_equal(found["spatial"].covariance, spatial.covariance)


def test_a_file_of_moments_has_no_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(MetricError, match="holds moments but no images"):
        AdmFile(tmp_path / "a.npz").read(0, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((2, 4, 4, 3))}, "arr_0 is float64 of shape"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"shape \(2, 3, 4, 4\), not uint8 of n x h"),
        ({"features": np.zeros(3)}, r"holds features; needed arr_0, or mu and sigma"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(MetricError, match=message):
        AdmFile(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "one of mu, sigma; needed both"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "needed a vector and its square matrix"),
    ],
)
def test_moments_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(MetricError, match=message):
        AdmFile(tmp_path / "a.npz").moments()


@pytest.mark.parametrize(
    "content", [b"", b"text", pickle.dumps({"arr_0": 1})], ids=["empty", "text", "pickle"]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(MetricError, match=r"a\.npz: not readable as .npz"):
        AdmFile(tmp_path / "a.npz")


def test_images_of_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(MetricError, match="arr_0 is of type O, which is no plain number"):
        AdmFile(tmp_path / "a.npz")
