"""Errors of differences between sets that share their noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rdm_batch.errors import MetricError
from rdm_batch.metrics.clipped_scores import clipped_scores
from rdm_batch.metrics.compute import compute_scores
from rdm_batch.metrics.evaluation import Findings
from rdm_batch.metrics.features import ExtractorDescription, FeatureSet
from rdm_batch.metrics.inception_score import inception_score
from rdm_batch.metrics.kernel_distance import kernel_distance
from rdm_batch.metrics.kernel_whole import (
    cubic_kernel,
    gaussian_kernel,
    kernel_influences,
    whole_kernel_distance,
)
from rdm_batch.metrics.moments import gaussian_statistics
from rdm_batch.metrics.pairing import (
    Influences,
    inception_influences,
    mean_influences,
    paired_error,
    variance_ratio,
)
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.resampling import estimate_frechet
from rdm_batch.metrics.sliced_wasserstein import mind
from rdm_batch.metrics.vendi import vendi_score
from tests.metrics.examples import cloud


def of_samples(values: np.ndarray, first: int = 0) -> Influences:
    ids = np.arange(first, first + len(values), dtype=np.int64)
    return Influences("samples", ids, mean_influences(values))


def test_equal_indices_are_paired() -> None:
    random = np.random.default_rng(0)
    shared, own = random.normal(size=400), random.normal(size=400)
    first, second = of_samples(shared), of_samples(shared + 0.1 * own)
    expected = 0.1 * own.std(ddof=1) / 20
    assert paired_error(first, second) == pytest.approx(expected)
    ratio = variance_ratio(first, second)
    assert ratio is not None
    assert 150 < ratio < 250


def test_sets_without_a_common_sample_are_not_paired() -> None:
    random = np.random.default_rng(0)
    first = of_samples(random.normal(size=100))
    second = of_samples(random.normal(size=400), first=100)
    apart = np.hypot(first.error, second.error)
    assert paired_error(first, second) == pytest.approx(apart, rel=0.01)


def test_a_set_differs_from_itself_by_nothing() -> None:
    one = of_samples(np.arange(5.0))
    assert paired_error(one, one) == 0
    assert variance_ratio(one, one) is None


def test_kinds_are_not_mixed() -> None:
    one = of_samples(np.arange(5.0))
    with pytest.raises(MetricError, match="samples and reference; needed one kind"):
        paired_error(one, Influences("reference", one.ids, one.values))


def _frechet(features: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray]:
    found = estimate_frechet(features, gaussian_statistics(reference))
    return found.value, mean_influences(found.influences)


def _kernel(features: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray]:
    value = kernel_distance(features, reference, subsets=1, subset_size=len(features)).mean
    return value, kernel_influences(features, reference)


def _inception(features: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray]:
    value = inception_score(features, splits=1).mean
    return value, inception_influences(features, value)


def _kd(features: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray]:
    found = whole_kernel_distance(features, reference, cubic_kernel)
    return found.value, found.influences


def _cmmd(features: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray]:
    found = whole_kernel_distance(features, reference, gaussian_kernel)
    return found.value, found.influences


def _mind(features: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray]:
    found = mind(features, reference, projections=40)
    return found.value, found.influences


def _vendi(features: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray]:
    found = vendi_score(features)
    return found.value, found.influences


def _clipped_density(features: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray]:
    found = clipped_scores(features, reference).density
    return found.value, found.influences


_NEWER = (_kd, _cmmd, _mind, _vendi, _clipped_density)


@pytest.mark.parametrize("score", [_frechet, _kernel, _inception, *_NEWER])
def test_an_influence_is_what_leaving_the_sample_out_does(
    score: Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]],
) -> None:
    features, reference = cloud(300, 5, seed=0, spread=1.5), cloud(300, 5, seed=1)
    value, influences = score(features, reference)
    chosen = [0, 17, 170]
    for row in chosen:
        without, _ = score(np.delete(features, row, axis=0), reference)
        assert (len(features) - 1) * (value - without) == pytest.approx(
            influences[row], abs=0.06 * float(np.abs(influences).max())
        )


@pytest.mark.parametrize("score", [_frechet, _kernel, *_NEWER])
def test_the_error_of_a_difference_is_its_spread_over_seeds(
    score: Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]],
) -> None:
    reference = cloud(400, 6, seed=1)
    differences, errors = [], []
    for seed in range(60):
        features = cloud(300, 6, seed=100 + seed, spread=1.2)
        other = (1.05 * features + 0.02).astype(np.float32)
        (first, first_of), (second, second_of) = score(features, reference), score(other, reference)
        differences.append(second - first)
        errors.append(paired_error(of_samples(first_of), of_samples(second_of)))
    # The spread of sixty values is uncertain by a tenth.
    assert np.mean(errors) / np.std(differences, ddof=1) == pytest.approx(1, abs=0.3)


def test_scores_keep_influences_only_where_asked() -> None:
    extractor = ExtractorDescription(
        name="tiny", digest="0" * 64, image_size=16, resize="none", layers={"pooled": 4}
    )
    ids = np.arange(40, dtype=np.int64)
    generated = FeatureSet(extractor, ids, {"pooled": cloud(40, 4, seed=0)}, "samples")
    other = FeatureSet(extractor, ids, {"pooled": cloud(40, 4, seed=1)}, "reference")
    reference = ReferenceStatistics.from_features(other)
    wanted = ("fid", "kid", "precision", "recall", "density", "coverage", "clipped_coverage")
    wanted += ("kd", "mind", "vendi", "clipped_density")
    findings = Findings(influences={})
    asked = compute_scores(generated, reference, wanted, findings=findings)
    assert findings.influences is not None
    assert findings.influences.keys() == set(wanted)
    assert {k: v.over for k, v in findings.influences.items() if v.over == "reference"} == {
        "recall": "reference",
        "coverage": "reference",
        "clipped_coverage": "reference",
    }
    for score in asked:
        if score.id != "kid":  # whose customary error is the spread between subsets
            assert findings.influences[score.id].error == pytest.approx(score.uncertainty, rel=0.03)
    silent = Findings()
    assert compute_scores(generated, reference, wanted, findings=silent) == asked
    assert silent.influences is None
