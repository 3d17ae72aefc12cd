from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.metrics.regions import find_regions, principal_plane
from tests.metrics.examples import cloud
from tests.tolerances import MAP_REL


def test_the_plane_is_that_of_the_largest_eigenvalues() -> None:
    generated, reference = cloud(50, 20, seed=0), cloud(400, 20, seed=1)
    plane = principal_plane(generated, reference)
    covariance = np.cov(reference.astype(np.float64), rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    assert plane.explained == pytest.approx(values[-2:].sum() / values.sum(), rel=1e-6)
    expected = (reference - reference.mean(axis=0)) @ vectors[:, ::-1][:, :2]
    signs = np.sign((expected * plane.reference).sum(axis=0))
    np.testing.assert_allclose(
        plane.reference, expected * signs, atol=MAP_REL * np.ptp(plane.reference)
    )
    # The samples are placed by the reference's mean and directions.
    own = (generated - reference.mean(axis=0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(plane.generated, own * signs, atol=MAP_REL * np.ptp(plane.reference))


def test_the_plane_does_not_depend_on_the_order_of_the_reference() -> None:
    generated, reference = cloud(50, 20, seed=0), cloud(400, 20, seed=1)
    first, second = (
        principal_plane(generated, rows)
        for rows in (reference, np.ascontiguousarray(reference[::-1]))
    )
    width = np.ptp(first.reference)
    np.testing.assert_allclose(first.reference, second.reference[::-1], atol=MAP_REL * width)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_constant_and_narrow_features_have_a_plane(dim: int) -> None:
    plane = principal_plane(np.ones((4, dim), np.float32), np.ones((9, dim), np.float32))
    assert np.isfinite(plane.generated).all()
    assert plane.reference.shape == (9, 2)
    assert plane.explained == 1.0


def test_regions_find_the_clusters_and_the_one_without_samples() -> None:
    rng = np.random.default_rng(0)
    centers = 100 * rng.standard_normal((6, 16))
    of_reference = np.repeat(np.arange(6), 30)
    of_samples = np.repeat(np.arange(5), 8)
    reference = (centers[of_reference] + rng.standard_normal((180, 16))).astype(np.float32)
    generated = (centers[of_samples] + rng.standard_normal((40, 16))).astype(np.float32)
    regions = find_regions(generated, reference, 6)
    found = {
        int(of_reference[region.reference[0]]): (
            set(of_reference[region.reference]),
            len(region.reference),
            len(region.generated),
        )
        for region in regions
    }
    assert found == {name: ({name}, 30, 8 if name < 5 else 0) for name in range(6)}


def test_every_row_is_in_one_region_and_the_middle_comes_first() -> None:
    generated, reference = cloud(300, 12, seed=0), cloud(500, 12, seed=1)
    regions = find_regions(generated, reference, 9)
    for side, rows in (("generated", generated), ("reference", reference)):
        members = np.concatenate([getattr(region, side) for region in regions])
        assert sorted(members) == list(range(len(rows)))
    for region in regions:
        center = reference[region.reference].mean(axis=0)
        distances = np.square(reference[region.reference] - center).sum(axis=1)
        assert distances[0] <= np.median(distances)


def test_regions_of_a_narrow_cloud_far_from_zero_are_those_of_the_same_cloud_at_zero() -> None:
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((4, 16))
    rows = (centers[np.arange(80) % 4] + 0.1 * rng.standard_normal((80, 16))).astype(np.float32)
    regions = find_regions(rows[:8] + np.float32(1000), rows + np.float32(1000), 4)
    found = {frozenset(region.reference % 4): len(region.reference) for region in regions}
    assert found == {frozenset({name}): 20 for name in range(4)}


def test_rows_that_coincide_make_one_region() -> None:
    rows = np.ones((60, 3), np.float32)
    (region,) = find_regions(rows[:5], rows, 4)
    assert (len(region.reference), len(region.generated)) == (60, 5)
