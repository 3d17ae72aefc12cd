"""MIND against the published formula, and sets of different sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdm_batch.metrics.sliced_wasserstein import Coupling, mind
from rdm_batch.metrics.tasks import RunHere
from tests.metrics.examples import cloud
from tests.tolerances import MERGED_REL


def _published(x: np.ndarray, y: np.ndarray, projections: int, seed: int) -> float:
    """Compute ``3 d mean (sorted u.x - sorted u.y)^2`` of sets of one size."""
    directions = torch.from_numpy(
        np.random.RandomState(seed).standard_normal((projections, x.shape[1]))
    )
    directions /= directions.norm(dim=1, keepdim=True)
    values = (directions @ torch.from_numpy(side).double().T for side in (x, y))
    first, second = (torch.topk(side, len(x), dim=1).values for side in values)
    return float(3 * x.shape[1] * (first - second).square().mean())


@pytest.mark.parametrize("projections", [1, 64, 150])
def test_sets_of_one_size_give_the_published_value(projections: int) -> None:
    generated, reference = cloud(120, 9, seed=0), cloud(120, 9, seed=1, spread=1.3)
    ours = mind(generated, reference, projections, seed=5).value
    assert ours == pytest.approx(_published(generated, reference, projections, 5), rel=MERGED_REL)


@pytest.mark.parametrize(("n", "m"), [(60, 40), (40, 60), (7, 5), (30, 1)])
def test_sets_of_other_sizes_are_matched_by_quantiles(n: int, m: int) -> None:
    generated, reference = cloud(n, 4, seed=0), cloud(m, 4, seed=1)
    # Repeating every row of both sides to one size changes neither distribution.
    expected = _published(np.repeat(generated, m, axis=0), np.repeat(reference, n, axis=0), 20, 3)
    assert mind(generated, reference, 20, seed=3).value == pytest.approx(expected, rel=MERGED_REL)


def test_a_coupling_moves_all_mass_once() -> None:
    coupling = Coupling.of(12, 8)
    np.testing.assert_allclose(np.bincount(coupling.own, coupling.mass), np.full(12, 1 / 12))
    np.testing.assert_allclose(np.bincount(coupling.other, coupling.mass), np.full(8, 1 / 8))
    assert (np.diff(coupling.own) >= 0).all()
    assert (np.diff(coupling.other) >= 0).all()


def test_a_shift_costs_three_times_its_square() -> None:
    features = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    shift = np.zeros(16, np.float32)
    shift[3] = 2
    # The square of a direction's component is 1 / d on average.
    assert mind(features, features + shift, 4000).value == pytest.approx(12, rel=0.08)
    assert mind(features, features).value == 0


def test_the_number_of_tasks_changes_no_value() -> None:
    generated, reference = cloud(50, 6, seed=0), cloud(70, 6, seed=1)
    whole = mind(generated, reference, 200)
    parts = mind(generated, reference, 200, runner=RunHere(3))
    assert parts.value == whole.value
    np.testing.assert_array_equal(parts.influences, whole.influences)
