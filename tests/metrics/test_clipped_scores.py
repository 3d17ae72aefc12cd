"""Clipped density and coverage against all distances, and what they say of planted faults."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import cdist

from rdm_batch.errors import MetricError
from rdm_batch.metrics.clipped_scores import calibrate, clipped_scores, expected_coverage
from rdm_batch.metrics.tasks import RunHere
from tests.metrics.examples import cloud
from tests.tolerances import MERGED_REL


def _expected(n: int, m: int, k: int) -> np.ndarray:
    """Compute the expected coverages term by term."""
    found = np.zeros(n + 1)
    for count in range(k, n + 1):
        j = np.arange(count + 1)
        masses = scipy.stats.betabinom.pmf(j, count, k, m - k)
        found[count] = (np.minimum(j, k) * masses).sum() / k
    return found


def _plain(generated: np.ndarray, reference: np.ndarray, k: int) -> tuple[float, float]:
    """Compute both scores from all distances at once."""
    own, across = cdist(reference, reference), cdist(reference, generated)
    radii = np.sort(own, axis=1)[:, k]
    clipped = np.minimum(radii, np.median(radii))
    of_samples = np.minimum((across <= clipped[:, None]).sum(axis=0) / k, 1).mean()
    np.fill_diagonal(own, np.inf)
    of_reference = np.minimum((own <= clipped[:, None]).sum(axis=0) / k, 1).mean()
    reached = np.minimum((across < radii[:, None]).sum(axis=1) / k, 1).mean()
    expected = _expected(len(generated), len(reference), k)
    below = sum(value < reached for value in expected) / len(expected)
    return min(1.0, float(of_samples / of_reference)), below


@pytest.mark.parametrize(
    ("n", "m", "k", "spread"), [(150, 120, 5, 1.4), (90, 151, 3, 0.8), (60, 61, 1, 1.0)]
)
def test_scores_equal_those_of_all_distances(n: int, m: int, k: int, spread: float) -> None:
    generated, reference = cloud(n, 7, seed=0, spread=spread), cloud(m, 7, seed=1)
    found = clipped_scores(generated, reference, k, block_size=41, runner=RunHere(3))
    density, coverage = _plain(generated, reference, k)
    assert found.density.value == pytest.approx(density, rel=MERGED_REL)
    assert found.coverage.value == coverage


@pytest.mark.parametrize(("n", "m", "k"), [(40, 30, 5), (30, 40, 3), (6, 9, 1), (3, 20, 5)])
def test_expected_coverages_are_means_of_beta_binomials(n: int, m: int, k: int) -> None:
    found = expected_coverage(n, m, k)[: n + 1]
    np.testing.assert_allclose(found, _expected(n, m, k), rtol=1e-9, atol=1e-12)


def test_fifty_thousand_samples_have_their_scale_at_once() -> None:
    expected = expected_coverage(50_000, 50_000, 5)
    assert (np.diff(expected[5:]) > 0).all()
    value, slope = calibrate(float(expected[25_000]), 50_000, 50_000, 5)
    assert value == pytest.approx(0.5, abs=1e-4)
    moved, _ = calibrate(float(expected[25_000]) + 0.005, 50_000, 50_000, 5)
    assert moved - value == pytest.approx(0.005 * slope, rel=0.05)


def test_a_part_of_bad_samples_shows_as_that_part() -> None:
    good, reference = cloud(600, 6, seed=0), cloud(600, 6, seed=1)
    for part in (0.0, 0.25, 0.5, 0.75):
        generated = good.copy()
        generated[: int(600 * part)] += 1000
        found = clipped_scores(generated, reference)
        assert found.density.value == pytest.approx(1 - part, abs=0.08)
        assert found.coverage.value == pytest.approx(1 - part, abs=0.08)


def test_one_image_far_away_gives_no_sample_density() -> None:
    reference = cloud(200, 4, seed=1)
    reference[0] += 500
    # Between the reference and its outlier, inside the outlier's own ball alone.
    generated = cloud(100, 4, seed=0) + np.float32(250)
    assert clipped_scores(generated, reference).density.value == 0


def test_the_error_is_the_spread_over_sets_of_samples() -> None:
    reference = cloud(300, 6, seed=1)
    found = [clipped_scores(cloud(200, 6, 50 + seed, 1.3), reference) for seed in range(60)]
    densities = [each.density.value for each in found]
    errors = [each.density.error for each in found]
    assert max(densities) < 1
    assert np.mean(errors) == pytest.approx(np.std(densities, ddof=1), rel=0.3)


def test_sets_smaller_than_their_neighborhood_are_refused() -> None:
    with pytest.raises(MetricError, match="5 samples; needed more than k = 5"):
        clipped_scores(cloud(9, 4, seed=0), cloud(5, 4, seed=1), 5)
