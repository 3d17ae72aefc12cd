from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval import conditioning
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.index import IndexSettings, build_index
from rdm_batch.retrieval.merge import Neighbors
from rdm_batch.retrieval.proposal import every_row
from rdm_batch.retrieval.shard import ShardSearcher

Vectors = Callable[..., np.ndarray]


@pytest.fixture
def rows(vectors: Vectors) -> np.ndarray:
    return vectors(300).astype(np.float16)


@pytest.fixture
def retriever(rows: np.ndarray) -> CompositeRetriever:
    return CompositeRetriever(
        [
            ShardSearcher(rows[a:b], build_index(rows[a:b], IndexSettings(), "test"), first_row=a)
            for a, b in [(0, 120), (120, 300)]
        ]
    )


def test_unconditional_context_is_the_neighbors_of_a_drawn_row(
    retriever: CompositeRetriever, rows: np.ndarray
) -> None:
    uniforms = np.random.default_rng(0).random(20)
    result = conditioning.unconditional(retriever, every_row(300).draw(uniforms, "proposal"), 4)
    assert result.query_ids is not None
    np.testing.assert_array_equal(result.query_ids, np.floor(uniforms * 300).astype(int))
    ids, scores = exact_top_k(rows, rows[result.query_ids].astype(np.float32), 4)
    np.testing.assert_array_equal(result.neighbor_ids, ids)
    np.testing.assert_array_equal(result.neighbor_scores, scores)
    np.testing.assert_array_equal(result.context, rows[ids].astype(np.float32))
    np.testing.assert_array_equal(result.neighbor_ids[:, 0], result.query_ids)


def test_samples_do_not_depend_on_their_batch(retriever: CompositeRetriever) -> None:
    drawn = every_row(300).draw(np.random.default_rng(0).random(30), "uniform")
    whole = conditioning.unconditional(retriever, drawn, 5)
    for start, end in [(0, 1), (3, 30), (29, 30)]:
        part = conditioning.unconditional(retriever, drawn[start:end], 5)
        np.testing.assert_array_equal(part.context, whole.context[start:end])
        np.testing.assert_array_equal(part.neighbor_scores, whole.neighbor_scores[start:end])


def test_query_variants_hold_query_and_neighbors(
    retriever: CompositeRetriever, rows: np.ndarray, vectors: Vectors
) -> None:
    queries = vectors(3, seed=5)
    ids, _ = exact_top_k(rows, queries, 4)
    neighbors = rows[ids].astype(np.float32)
    alone = conditioning.from_queries(retriever, queries, 1, "query")
    np.testing.assert_array_equal(alone.context, queries[:, None])
    assert alone.neighbor_ids.shape == (3, 0)
    repeated = conditioning.from_queries(retriever, queries, 4, "query")
    np.testing.assert_array_equal(repeated.context, np.repeat(queries[:, None], 4, axis=1))
    both = conditioning.from_queries(retriever, queries, 4, "query_and_neighbors")
    np.testing.assert_array_equal(both.context[:, 0], queries)
    np.testing.assert_array_equal(both.context[:, 1:], neighbors[:, :3])
    np.testing.assert_array_equal(both.neighbor_ids, ids[:, :3])
    without = conditioning.from_queries(retriever, queries, 4, "neighbors")
    np.testing.assert_array_equal(without.context, neighbors)


def test_one_token_of_query_and_neighbors_is_the_query(
    retriever: CompositeRetriever, vectors: Vectors
) -> None:
    queries = vectors(2, seed=5)
    result = conditioning.from_queries(retriever, queries, 1, "query_and_neighbors")
    np.testing.assert_array_equal(result.context, queries[:, None])


def test_query_of_another_width_is_refused_in_every_variant(retriever: CompositeRetriever) -> None:
    for variant in ("query", "query_and_neighbors", "neighbors"):
        with pytest.raises(DatabaseError, match=r"16-dimensional .* 8 dimensions"):
            conditioning.from_queries(retriever, np.ones((1, 8), dtype=np.float32), 2, variant)


def test_classes_draw_from_their_own_pool(retriever: CompositeRetriever, vectors: Vectors) -> None:
    pools = conditioning.class_pools(retriever, vectors(2, seed=7), 10)
    labels = np.array([0, 1, 1, 0])
    uniforms = np.random.default_rng(0).random((4, 3))
    result = conditioning.from_class_pools(pools, labels, uniforms)
    for sample, label in enumerate(labels):
        ids = result.neighbor_ids[sample].tolist()
        assert len(set(ids)) == 3
        assert set(ids) <= set(pools.ids[label].tolist())
        np.testing.assert_array_equal(result.context[sample], retriever.fetch(np.array(ids)))
        assert (np.diff(result.neighbor_scores[sample]) <= 0).all()


def test_every_subset_of_a_pool_is_equally_likely() -> None:
    grid = (np.arange(20) + 0.5) / 20
    uniforms = np.array(list(itertools.product(grid, grid)))
    chosen = conditioning.draw_without_replacement(uniforms, 5)
    subsets, counts = np.unique(chosen, axis=0, return_counts=True)
    assert len(subsets) == 10
    assert (counts == 40).all()


def test_drawing_the_whole_pool_gives_the_whole_pool() -> None:
    uniforms = np.random.default_rng(0).random((50, 6))
    chosen = conditioning.draw_without_replacement(uniforms, 6)
    np.testing.assert_array_equal(chosen, np.tile(np.arange(6), (50, 1)))


def test_pools_refuse_what_they_cannot_give(
    retriever: CompositeRetriever, vectors: Vectors
) -> None:
    pools = conditioning.class_pools(retriever, vectors(2, seed=7), 3)
    with pytest.raises(DatabaseError, match="k_nn = 4 of a pool of 3"):
        conditioning.from_class_pools(pools, np.array([0]), np.zeros((1, 4)))
    for label in (-1, 2):
        with pytest.raises(DatabaseError, match=f"label {label}"):
            conditioning.from_class_pools(pools, np.array([label]), np.zeros((1, 1)))


def test_class_prompt_keeps_braces_in_labels() -> None:
    assert conditioning.class_prompt("golden retriever") == "An image of a golden retriever."
    assert conditioning.class_prompt("{x}", "a {label} {y}") == "a {x} {y}"


def test_given_rows_and_embeddings_become_the_context(
    retriever: CompositeRetriever, rows: np.ndarray
) -> None:
    ids = np.array([[5, 299], [130, 5]])
    by_id = conditioning.given_rows(retriever, ids)
    np.testing.assert_array_equal(by_id.context, rows[ids].astype(np.float32))
    by_value = conditioning.given_embeddings(rows[ids], 16)
    np.testing.assert_array_equal(by_value.context, by_id.context)
    with pytest.raises(DatabaseError, match="row id 300"):
        conditioning.given_rows(retriever, np.array([[300]]))
    with pytest.raises(DatabaseError, match="norm 0"):
        conditioning.given_embeddings(np.zeros((1, 2, 16)), 16)
    with pytest.raises(DatabaseError, match=r"512-dimensional .* 16 dimensions"):
        conditioning.given_embeddings(rows[ids], 512)


class _Forgetful:
    """Miss the row that was asked for, as an approximate index may."""

    def __init__(self, rows: np.ndarray) -> None:
        self._whole = rows
        self.rows, self.dim = rows.shape

    def fetch(self, ids: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._whole[ids]
        return found

    def search(self, queries: np.ndarray, k: int) -> Neighbors:
        ids, scores = exact_top_k(self._whole, queries, k + 1)
        return Neighbors(ids[:, 1:], scores[:, 1:], self._whole[ids[:, 1:]])

    def thumbnails(self, ids: np.ndarray) -> list[bytes]:
        raise NotImplementedError


def test_a_pseudo_query_that_an_index_misses_leads_its_neighbors_all_the_same() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    drawn = every_row(30).draw(np.random.default_rng(1).random(12), "uniform")
    found = conditioning.unconditional(_Forgetful(rows), drawn, 4)
    assert found.query_ids is not None
    ids, scores = exact_top_k(rows, rows[found.query_ids], 4)
    np.testing.assert_array_equal(found.neighbor_ids[:, 0], found.query_ids)
    np.testing.assert_array_equal(found.neighbor_ids, ids)
    np.testing.assert_array_equal(found.neighbor_scores, scores)
    np.testing.assert_array_equal(found.context, rows[ids])


def test_rows_of_the_same_direction_keep_their_order() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    rows[:4] = rows[20]
    # The fourth of five equal rows: an exact search of three finds others, by their ids.
    exact = ShardSearcher(rows, build_index(rows, IndexSettings(), "test"))
    found = conditioning.unconditional(CompositeRetriever([exact]), np.array([3]), 3)
    assert found.neighbor_ids.tolist() == [[0, 1, 2]]


def test_a_removed_row_is_not_put_among_its_own_neighbors() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    ids = np.array([3, 7])
    found = _Forgetful(rows).search(rows[ids], 4)
    whole = conditioning.with_own_rows(found, ids, rows[ids], np.array([7]))
    assert whole.ids[0, 0] == 3
    np.testing.assert_array_equal(whole.ids[1], found.ids[1])
