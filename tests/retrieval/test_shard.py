from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.inputs.databases import open_database
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.index import IndexSettings, build_index
from rdm_batch.retrieval.shard import ShardSearcher, open_shard

Vectors = Callable[..., np.ndarray]
WriteDatabase = Callable[..., DatabaseManifest]


@pytest.mark.parametrize("shards", [1, 4])
def test_scanned_databases_answer_exactly(
    vectors: Vectors, write_database: WriteDatabase, tmp_path: Path, shards: int
) -> None:
    rows, queries = vectors(700).astype(np.float16), vectors(40, seed=1)
    write_database(tmp_path, rows, shards=shards)
    retriever = open_database(tmp_path)
    found = retriever.search(queries, 15)
    ids, scores = exact_top_k(rows, queries, 15)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.embeddings, rows[ids].astype(np.float32))


def test_duplicates_beyond_the_candidates_keep_the_lowest_ids(vectors: Vectors) -> None:
    rows = vectors(500)
    rows[100:400] = rows[100]
    searcher = ShardSearcher(rows, build_index(rows, IndexSettings(), "test"))
    found = searcher.search(rows[250:251], 10)
    np.testing.assert_array_equal(found.ids[0], np.arange(100, 110))


def test_a_partition_with_too_few_rows_is_answered_by_scanning(vectors: Vectors) -> None:
    rows = vectors(400)
    settings = IndexSettings(kind="tree_ah", leaves=40, leaves_to_search=1)
    searcher = ShardSearcher(rows, build_index(rows, settings, "test"))
    found = searcher.search(rows[:5], 300)
    ids, scores = exact_top_k(rows, rows[:5], 300)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.parametrize("kind", ["brute_force", "tree_ah"])
def test_more_neighbors_than_reordered_candidates_are_all_found(
    vectors: Vectors, kind: str
) -> None:
    rows = vectors(500)
    settings = IndexSettings(kind=kind, reorder=5)
    found = ShardSearcher(rows, build_index(rows, settings, "test")).search(rows[:4], 500)
    np.testing.assert_array_equal(np.sort(found.ids, axis=1), np.tile(np.arange(500), (4, 1)))


@pytest.mark.parametrize("kind", ["brute_force", "tree_ah"])
def test_no_queries_give_no_neighbors(vectors: Vectors, kind: str) -> None:
    rows = vectors(100)
    searcher = ShardSearcher(rows, build_index(rows, IndexSettings(kind=kind), "test"))
    found = searcher.search(rows[:0], 3)
    assert found.ids.shape == (0, 3)
    assert found.embeddings.shape == (0, 3, 16)


@pytest.mark.parametrize("kind", ["brute_force", "tree_ah"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_queries_without_direction_are_refused(vectors: Vectors, kind: str, value: float) -> None:
    rows = vectors(100)
    searcher = ShardSearcher(rows, build_index(rows, IndexSettings(kind=kind), "test"))
    queries = rows[:5].copy()
    queries[3] = value
    with pytest.raises(DatabaseError, match="queries to shard: row 3"):
        searcher.search(queries, 2)


def test_wrong_width_and_k_are_refused(vectors: Vectors) -> None:
    rows = vectors(100)
    searcher = ShardSearcher(rows, build_index(rows, IndexSettings(), "test"))
    with pytest.raises(DatabaseError, match=r"16-dimensional embeddings but .* 8 dimensions"):
        searcher.search(vectors(2, dim=8), 2)
    for k in (0, 101):
        with pytest.raises(DatabaseError, match="1 <= k <= 100"):
            searcher.search(rows[:1], k)


def test_rows_and_thumbnails_are_fetched_across_shards(
    vectors: Vectors, write_database: WriteDatabase, tmp_path: Path
) -> None:
    rows = vectors(700)
    write_database(tmp_path, rows, shards=3)
    retriever = open_database(tmp_path)
    ids = np.array([699, 0, 300, 300, 5, 699])
    np.testing.assert_array_equal(retriever.fetch(ids), rows[ids])
    assert retriever.thumbnails(ids) == [b"png-%d" % row for row in ids]
    assert retriever.fetch(ids[:0]).shape == (0, 16)
    assert retriever.thumbnails(ids[:0]) == []
    for bad in (-1, 700):
        with pytest.raises(DatabaseError, match=f"row id {bad}"):
            retriever.fetch(np.array([1, bad]))


def test_a_shard_refuses_rows_of_others(
    vectors: Vectors, write_database: WriteDatabase, tmp_path: Path
) -> None:
    manifest = write_database(tmp_path, vectors(100), shards=2, thumbnails=False)
    shard = open_shard(tmp_path, 1, manifest=manifest)
    first = manifest.shards[1].first_row
    with pytest.raises(DatabaseError, match=f"row id {first - 1}"):
        shard.fetch(np.array([first - 1]))
    with pytest.raises(DatabaseError, match="no thumbnails"):
        shard.thumbnails(np.array([first]))
    with pytest.raises(DatabaseError, match="no shard 2"):
        open_shard(tmp_path, 2, manifest=manifest)


def test_missing_or_repeated_shards_are_refused(
    vectors: Vectors, write_database: WriteDatabase, tmp_path: Path
) -> None:
    manifest = write_database(tmp_path, vectors(100), shards=2)
    first, second = (open_shard(tmp_path, number, manifest=manifest) for number in (0, 1))
    for shards in ([], [second], [first, first], [first, second, second]):
        with pytest.raises(DatabaseError, match="every shard"):
            CompositeRetriever(shards)
    assert CompositeRetriever([second, first]).rows == 100


def test_search_effort_can_be_raised_on_opening(
    vectors: Vectors, write_database: WriteDatabase, tmp_path: Path
) -> None:
    rows = vectors(2000, dim=32)
    low = IndexSettings(kind="tree_ah", leaves=50, leaves_to_search=1)
    manifest = write_database(tmp_path, rows, settings=low)
    queries = vectors(60, dim=32, seed=1)
    exact = exact_top_k(rows, queries, 20)[1]
    few = open_shard(tmp_path, 0, manifest=manifest).search(queries, 20).scores
    raised = open_shard(tmp_path, 0, manifest=manifest, effort=SearchEffort(leaves_to_search=10**6))
    all_leaves = raised.search(queries, 20).scores
    assert (all_leaves >= exact[:, -1:]).mean() > (few >= exact[:, -1:]).mean()
    assert (all_leaves >= exact[:, -1:]).mean() > 0.98


def test_more_candidates_can_be_rescored_on_opening(
    vectors: Vectors, write_database: WriteDatabase, tmp_path: Path
) -> None:
    rows = vectors(2000, dim=32)
    few = IndexSettings(kind="tree_ah", leaves=20, leaves_to_search=20, reorder=1)
    manifest = write_database(tmp_path, rows, settings=few)
    queries = vectors(60, dim=32, seed=1)
    exact = exact_top_k(rows, queries, 1)[1]

    def found(reorder: int | None) -> float:
        shard = open_shard(tmp_path, 0, manifest=manifest, effort=SearchEffort(reorder=reorder))
        return float((shard.search(queries, 1).scores >= exact).mean())

    assert found(500) > found(None)
