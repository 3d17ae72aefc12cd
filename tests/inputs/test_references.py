from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import MetricError
from rdm_batch.inputs.image_sets import AdmImages
from rdm_batch.inputs.references import open_reference
from rdm_batch.metrics.compute import compute_scores
from rdm_batch.metrics.features import ExtractorDescription, FeatureSet
from rdm_batch.metrics.moments import gaussian_statistics
from rdm_batch.metrics.reference import ReferenceStatistics
from tests.metrics.examples import cloud, feature_set
from tests.tolerances import MERGED_REL

INCEPTION = ExtractorDescription(
    name="inception-v3-compat",
    digest="ab" * 32,
    image_size=299,
    resize="tensorflow-bilinear",
    layers={"2048": 12, "spatial": 7},
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))


def _features(count: int, seed: int) -> FeatureSet:
    layers = {name: cloud(count, dim, seed) for name, dim in INCEPTION.layers.items()}
    return FeatureSet(INCEPTION, np.arange(count), layers, "memory")


def _write_adm(path: Path, whole: FeatureSet, with_images: bool) -> None:
    arrays = {}
    for layer, suffix in (("2048", ""), ("spatial", "_s")):
        statistics = gaussian_statistics(whole.layer(layer))
        arrays[f"mu{suffix}"], arrays[f"sigma{suffix}"] = statistics.mean, statistics.covariance
    if with_images:
        arrays["arr_0"] = np.zeros((40, 8, 8, 3), dtype=np.uint8)
    np.savez(path, **arrays)


def _plain_frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Follow the ADM suite: float64 moments, square root of the product."""
    import scipy.linalg

    first, second = first.astype(np.float64), second.astype(np.float64)
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    difference = first.mean(axis=0) - second.mean(axis=0)
    return difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root)


def test_moments_of_an_adm_file_win_over_its_images(tmp_path: Path) -> None:
    # The suite's references: moments of the whole data set, images of a part of it.
    whole, part, generated = _features(400, 1), _features(40, 2), _features(90, 3)
    _write_adm(tmp_path / "ref.npz", whole, with_images=True)
    opened = open_reference(str(tmp_path / "ref.npz"))
    assert isinstance(opened.images, AdmImages)
    assert opened.images.num_images == 40
    reference = opened.finish(INCEPTION, part)
    scores = {
        score.id: score
        for score in compute_scores(generated, reference, ["fid", "sfid", "precision", "recall"])
    }
    for name, layer in (("fid", "2048"), ("sfid", "spatial")):
        expected = _plain_frechet(generated.layer(layer), whole.layer(layer))
        assert scores[name].value == pytest.approx(expected, rel=MERGED_REL)
        assert scores[name].description.num_reference is None
    direct = compute_scores(
        generated, ReferenceStatistics.from_features(part), ["precision", "recall"]
    )
    for score in direct:
        assert scores[score.id].value == score.value
        assert scores[score.id].description.num_reference == 40


def test_an_adm_file_of_moments_alone_serves_fid(tmp_path: Path) -> None:
    _write_adm(tmp_path / "ref.npz", _features(400, 1), with_images=False)
    opened = open_reference(str(tmp_path / "ref.npz"))
    assert opened.images is None
    reference = opened.finish(INCEPTION, None)
    (score,) = compute_scores(_features(90, 3), reference, ["fid"])
    assert score.value > 0
    with pytest.raises(MetricError, match="holds no features of layer '2048'"):
        compute_scores(_features(90, 3), reference, ["precision"])


@pytest.mark.parametrize(
    "change", [{"resize": "clean-bicubic"}, {"name": "vgg16"}], ids=["resize", "network"]
)
def test_moments_of_another_extractor_are_not_used(tmp_path: Path, change: dict) -> None:
    other = INCEPTION.model_copy(update=change)
    _write_adm(tmp_path / "alone.npz", _features(400, 1), with_images=False)
    with pytest.raises(MetricError, match=r"moments of inception-v3-compat .* and no images"):
        open_reference(str(tmp_path / "alone.npz")).finish(other, None)
    _write_adm(tmp_path / "both.npz", _features(400, 1), with_images=True)
    part = FeatureSet(other, np.arange(40), _features(40, 2).layers, "memory")
    reference = open_reference(str(tmp_path / "both.npz")).finish(other, part)
    assert reference.gaussian("2048").count == 40


def test_saved_statistics_need_no_images(tmp_path: Path) -> None:
    built = ReferenceStatistics.from_features(feature_set(cloud(30, 5, seed=0)))
    built.save(tmp_path / "ref.npz")
    opened = open_reference(str(tmp_path / "ref.npz"))
    assert opened.images is None
    assert opened.finish(built.extractor, None).digest == built.digest


def test_images_become_a_reference(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((40, 8, 8, 3), dtype=np.uint8))
    part = _features(40, 2)
    reference = open_reference(str(tmp_path / "a.npz")).finish(INCEPTION, part)
    assert reference.digest == ReferenceStatistics.from_features(part).digest
