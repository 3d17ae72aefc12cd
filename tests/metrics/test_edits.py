from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rdm_batch.metrics.edits import (
    edit_directions,
    feature_distances,
    grouped_error,
    outside_distances,
)
from rdm_batch.metrics.resampling import mean_error


def _rows(seed: int, count: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


def test_directions_are_those_of_an_independent_computation() -> None:
    images, sources, texts, said = (_rows(seed) for seed in range(4))
    unit = [F.normalize(torch.from_numpy(rows).double()) for rows in (images, sources, texts, said)]
    expected = F.cosine_similarity(unit[0] - unit[1], unit[2] - unit[3])
    found = edit_directions(images, sources, texts, said)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-12)
    # Lengths of embeddings are no directions.
    np.testing.assert_allclose(edit_directions(images * 3, sources, texts, said * 0.5), found)


def test_a_sample_that_goes_the_way_of_its_text_scores_one() -> None:
    sources, said = _rows(0), _rows(1)
    unit = said / np.linalg.norm(said, axis=1, keepdims=True)
    texts = unit[::-1].copy()
    start = np.zeros_like(sources)
    start[:, 0] = 1  # of length 1, as what is left of the way is
    images = start + (texts - unit)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    along = edit_directions(images, start, texts, said)
    assert along.min() > 0.5
    assert edit_directions(start, start, texts, said).tolist() == [0.0] * 20
    assert edit_directions(images, start, said, said).tolist() == [0.0] * 20
    assert edit_directions(start, images, texts, said) == pytest.approx(-along)


def test_feature_distances_are_half_the_squared_distances_of_units() -> None:
    images, sources = _rows(0), _rows(1)
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, sources)]
    expected = np.square(units[0] - units[1]).sum(axis=1) / 2
    np.testing.assert_allclose(feature_distances(images, sources), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (20, 27)])
def test_distances_outside_are_those_of_loops(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    images, sources = random.integers(0, 256, (2, 3, *size, 3), dtype=np.uint8)
    height, width = size
    expected = []
    for image, source in zip(images.astype(float), sources.astype(float), strict=True):
        blocks = []
        for row in range(8):
            for column in range(8):
                rows = slice(row * height // 8, (row + 1) * height // 8)
                columns = slice(column * width // 8, (column + 1) * width // 8)
                change = (image[rows, columns] - source[rows, columns]).ravel() ** 2
                blocks.append((change.mean(), change.sum(), change.size))
        kept = sorted(blocks, key=lambda block: block[0])[:48]
        expected.append((sum(b[1] for b in kept) / sum(b[2] for b in kept)) ** 0.5)
    np.testing.assert_allclose(outside_distances(images, sources), expected, rtol=1e-12)


def test_an_edit_of_a_quarter_of_the_picture_leaves_the_rest_alone() -> None:
    sources = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    images = sources.copy()
    images[0, 8:24, 8:24] ^= 255
    images[1, 4:24, 8:24] ^= 255
    inside, beyond = outside_distances(images, sources)
    assert inside == 0
    assert beyond > 20


def test_errors_count_the_edits_of_a_source_together() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(50)
    alone = grouped_error(values, np.arange(50))
    assert alone == pytest.approx(mean_error(values))
    assert grouped_error(values, np.zeros(50)) is None
    # Against the spread of means over sets of 40 pictures with 5 edits each.
    means, errors = [], []
    for _ in range(400):
        drawn = np.repeat(random.standard_normal(40), 5) + 0.5 * random.standard_normal(200)
        means.append(drawn.mean())
        errors.append(grouped_error(drawn, np.repeat(np.arange(40), 5)))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)
