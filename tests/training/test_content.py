"""What a picture's embedding says besides what pictures that look like it have in common."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.inputs.encoders import load_named_encoder
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.training.content import content_of, some_rows
from rdm_batch.training.context import DrawnContext, _without

ATTRIBUTES = ("shape", "color", "style", "position", "background")
SAID, UNSAID = ATTRIBUTES[:3], ATTRIBUTES[3:]


def _shown(subset: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    items = [ShapesSource(subset, count)[index] for index in range(count)]
    facts = [[item.attributes[name] for name in ATTRIBUTES] for item in items]
    return np.stack([item.image for item in items]), np.array(facts)


def test_neighbors_of_the_content_show_the_same_thing_elsewhere() -> None:
    encoder = load_named_encoder("shapes-clip", None, "cpu")
    (rows, of_rows), (images, of_images) = _shown("database", 2_500), _shown("train", 60)
    embeddings = encoder.encode_images(list(rows))
    queries = encoder.encode_images(list(images))
    content = content_of(queries, images, embeddings, rows)

    def same(given: np.ndarray) -> dict[str, float]:
        ids, _ = exact_top_k(embeddings, given, 5)
        shares = (of_rows[ids] == of_images[:, None]).mean(axis=(0, 1))
        return dict(zip(ATTRIBUTES, shares, strict=True))

    own, left = same(queries), same(content)
    assert all(left[name] > 0.75 for name in SAID)
    # Five places and four backgrounds: by chance 0.2 and 0.25 are the same.
    assert all(own[name] > 0.5 for name in UNSAID)
    assert all(left[name] < 0.35 for name in UNSAID)


def test_some_of_the_neighbors_stand_behind_their_mean() -> None:
    embeddings = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    ids = torch.stack([torch.randperm(50, generator=torch.Generator().manual_seed(n))[:9]
                       for n in range(4)])  # fmt: skip
    context = DrawnContext(ids, embeddings, 3, 0.0)
    rows = torch.tensor([0, 3] * 200)
    given = context(rows, torch.Generator().manual_seed(1))
    assert given.shape == (400, 4, 6)
    torch.testing.assert_close(given[:, 0], given[:, 1:].mean(dim=1))
    drawn = (given[:, 1:, None] == embeddings).all(-1).int().argmax(-1)
    assert all(
        set(some) <= set(ids[row].tolist())
        for row, some in zip(rows.tolist(), drawn.tolist(), strict=True)
    )
    assert all(len(set(some)) == 3 for some in drawn.tolist())
    assert set(drawn[::2].flatten().tolist()) == set(ids[0].tolist())  # each at some time
    assert torch.equal(context.nearest, ids[:, 0])
    zeros = DrawnContext(ids, embeddings, 3, 0.5)(rows, torch.Generator().manual_seed(1))
    assert 150 < int((zeros == 0).all(dim=(1, 2)).sum()) < 250


def test_an_image_is_no_neighbor_of_itself() -> None:
    ids = np.array([[4, 7, 2], [1, 4, 3], [5, 6, 8]])
    assert _without(ids, np.array([7, 1, -1])).tolist() == [[4, 2], [4, 3], [5, 6]]


@pytest.mark.parametrize(("rows", "kept"), [(7, 7), (40_000, 32_768)])
def test_of_large_databases_some_rows_are_compared(rows: int, kept: int) -> None:
    found = some_rows(rows, 3)
    assert len(set(found.tolist())) == kept
    assert np.array_equal(found, np.sort(found))
    assert np.array_equal(found, some_rows(rows, 3))
