from __future__ import annotations

import numpy as np

from rdm_batch.metrics.novelty import neighbor_distances
from tests.metrics.examples import cloud


def test_distance_is_that_to_the_nearest_of_the_own_neighbors() -> None:
    samples = np.eye(3, dtype=np.float32)
    neighbors = np.zeros((3, 2, 3), dtype=np.float32)
    neighbors[0] = [[0, 5, 0], [1, 1, 0]]
    neighbors[1] = [[0, 7, 0], [1, 0, 0]]
    neighbors[2] = [[0, 1, 0], [0, 0, -2]]
    expected = [1 - np.sqrt(0.5), 0, 1]
    np.testing.assert_allclose(neighbor_distances(samples, neighbors), expected, atol=1e-7)


def test_a_copied_neighbor_is_at_no_distance() -> None:
    neighbors = cloud(12, 5, seed=0).reshape(4, 3, 5)
    distances = neighbor_distances(neighbors[:, 2].copy(), neighbors)
    np.testing.assert_allclose(distances, 0, atol=1e-12)
