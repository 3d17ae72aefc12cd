from __future__ import annotations

import numpy as np

from rdm_batch.metrics.clip_score import clip_scores, row_cosines
from tests.metrics.examples import cloud


def test_cosines_equal_the_definition() -> None:
    first, second = cloud(20, 6, seed=0) - 1, cloud(20, 6, seed=1) - 1
    expected = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(first.astype(float), second.astype(float), strict=True)
    ]
    np.testing.assert_allclose(row_cosines(first, second), expected, rtol=1e-12)


def test_length_of_embeddings_does_not_matter() -> None:
    first, second = cloud(20, 6, seed=0), cloud(20, 6, seed=1)
    np.testing.assert_allclose(clip_scores(first, second), clip_scores(4 * first, second / 8))


def test_scores_run_from_zero_to_a_hundred() -> None:
    rows = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], dtype=np.float32)
    others = np.array([[2, 0], [0, 3], [-1, 0], [1, 0]], dtype=np.float32)
    np.testing.assert_array_equal(clip_scores(rows, others), [100, 0, 0, 0])
