"""Frechet distances extrapolated to infinitely many samples."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from rdm_batch.errors import MetricError
from rdm_batch.metrics.fid_infinity import POINTS, fid_infinity, intercept_weights, subsets
from rdm_batch.metrics.frechet import frechet_distance
from rdm_batch.metrics.moments import GaussianStatistics, gaussian_statistics
from rdm_batch.metrics.tasks import RunHere
from tests.metrics.examples import cloud
from tests.tolerances import MERGED_REL

# Square roots of unsymmetric products by scipy's Schur decomposition, small differences of which
# the intercept magnifies.
SQRTM_REL = 1e-6


def _textbook(features: np.ndarray, reference: np.ndarray) -> float:
    """Compute the distance by the published formula, with a general matrix square root."""
    first, second = features.astype(np.float64), reference.astype(np.float64)
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    away = first.mean(0) - second.mean(0)
    return float(away @ away + np.trace(s1 + s2 - 2 * root))


def test_the_score_is_the_intercept_of_a_fitted_line() -> None:
    features, reference = cloud(400, 6, seed=0, spread=1.2), cloud(600, 6, seed=1)
    drawn = subsets(400, 2020)
    distances = [_textbook(features[rows], reference) for rows in drawn]
    _, expected = np.polyfit([1 / len(rows) for rows in drawn], distances, 1)
    found = fid_infinity(features, gaussian_statistics(reference))
    assert found.value == pytest.approx(expected, rel=SQRTM_REL)


def test_subsets_go_in_equal_steps_from_a_tenth_to_all() -> None:
    drawn = subsets(50_000, 0)
    sizes = [len(rows) for rows in drawn]
    assert (len(sizes), sizes[0], sizes[-1]) == (POINTS, 5_000, 50_000)
    assert np.ptp(np.diff(sizes)) <= 1
    assert all(len(np.unique(rows)) == len(rows) for rows in drawn)
    again = subsets(50_000, 0)
    assert all(np.array_equal(one, other) for one, other in zip(drawn, again, strict=True))


def test_a_line_is_extrapolated_exactly() -> None:
    sizes = np.array([100, 150, 333, 1000])
    assert intercept_weights(sizes) @ (2.5 + 70 / sizes) == pytest.approx(2.5)


def _normal(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 10)).astype(np.float32)


def test_the_bias_of_few_samples_is_gone_and_the_error_is_the_spread() -> None:
    # The reference is the very distribution that the samples are drawn from: the truth is 0.
    truth = GaussianStatistics(np.zeros(10), np.eye(10), None)
    plain, extrapolated, errors = [], [], []
    for seed in range(60):
        features = _normal(300, seed)
        plain.append(frechet_distance(gaussian_statistics(features), truth))
        found = fid_infinity(features, truth)
        extrapolated.append(found.value)
        errors.append(found.error)
    spread = np.std(extrapolated, ddof=1)
    assert abs(np.mean(extrapolated)) < 0.2 * np.mean(plain)
    # Where both sides have one distribution, errors come out too large, up to twice.
    assert 0.7 < np.mean(errors) / spread < 2.2


def test_the_error_is_the_spread_over_sets_apart_from_the_reference() -> None:
    reference = GaussianStatistics(np.full(10, 0.5), 2 * np.eye(10), None)
    found = [fid_infinity(_normal(300, 100 + seed), reference) for seed in range(60)]
    spread = np.std([each.value for each in found], ddof=1)
    assert np.mean([each.error for each in found]) == pytest.approx(spread, rel=0.3)


def test_the_number_of_tasks_changes_no_value() -> None:
    features, reference = cloud(250, 5, seed=0), gaussian_statistics(cloud(300, 5, seed=1))
    whole, parts = (
        fid_infinity(features, reference, 7, runner) for runner in (RunHere(), RunHere(4))
    )
    assert parts.value == pytest.approx(whole.value, rel=MERGED_REL)
    np.testing.assert_allclose(parts.influences, whole.influences, rtol=MERGED_REL)


def test_too_few_samples_are_refused() -> None:
    reference = gaussian_statistics(cloud(300, 5, seed=1))
    with pytest.raises(MetricError, match="fid_infinity: 150 samples; needed 200 or more"):
        fid_infinity(cloud(150, 5, seed=0), reference)
