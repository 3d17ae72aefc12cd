from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.datasets.patches import patch_boxes


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (640, 480), (480, 640)])
def test_patches_are_squares_inside_the_image(size: tuple[int, int]) -> None:
    width, height = size
    for index in range(50):
        for x0, y0, x1, y1 in patch_boxes(width, height, 3, seed=0, index=index):
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            assert x1 - x0 == y1 - y0 >= max(1, round(0.5 * min(size)))


def test_patches_follow_from_seed_and_index_alone() -> None:
    assert patch_boxes(100, 80, 2, seed=3, index=7) == patch_boxes(100, 80, 2, seed=3, index=7)
    assert patch_boxes(100, 80, 2, seed=3, index=7) != patch_boxes(100, 80, 2, seed=3, index=8)
    assert patch_boxes(100, 80, 2, seed=3, index=7) != patch_boxes(100, 80, 2, seed=4, index=7)
    assert patch_boxes(100, 80, 3, seed=3, index=7)[:2] == patch_boxes(100, 80, 2, seed=3, index=7)


def test_patches_reach_every_side_length_and_the_borders() -> None:
    boxes = np.array([patch_boxes(20, 20, 1, seed=0, index=index)[0] for index in range(3000)])
    assert set((boxes[:, 2] - boxes[:, 0]).tolist()) == set(range(10, 21))
    assert boxes[:, 0].min() == boxes[:, 1].min() == 0
    assert boxes[:, 2].max() == boxes[:, 3].max() == 20
