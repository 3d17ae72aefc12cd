from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.composite import CompositeRetriever, ask_in_turn
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.retrieval.retriever import ObservedRetriever, Retriever, Search

Vectors = Callable[..., np.ndarray]
WriteDatabase = Callable[..., DatabaseManifest]


@pytest.fixture
def root(vectors: Vectors, write_database: WriteDatabase, tmp_path: Path) -> Path:
    write_database(tmp_path, vectors(400), shards=5)
    return tmp_path


def nested(root: Path, *groups: Sequence[int]) -> CompositeRetriever:
    return CompositeRetriever([Database.open(str(root)).retriever(group) for group in groups])


@pytest.mark.parametrize("method", ["search", "search_exactly"])
@pytest.mark.parametrize("k", [1, 30, 400])
def test_parts_of_parts_answer_like_the_whole(
    root: Path, vectors: Vectors, method: str, k: int
) -> None:
    whole, parts = Database.open(str(root)).retriever(), nested(root, [2, 3], [4], [0, 1])
    queries = vectors(9, seed=1)
    assert (parts.rows, parts.dim) == (whole.rows, whole.dim)
    found, expected = (getattr(one, method)(queries, k) for one in (parts, whole))
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.embeddings, expected.embeddings)


def test_rows_are_asked_of_those_who_hold_them(root: Path, vectors: Vectors) -> None:
    asked: list[tuple[str, int]] = []

    def ask(method: str, calls: Sequence[tuple[Any, tuple[Any, ...]]]) -> list[Any]:
        asked.append((method, len(calls)))
        return ask_in_turn(method, calls)

    shards = [Database.open(str(root)).retriever([number]) for number in range(5)]
    retriever = CompositeRetriever(shards, ask)
    ids = np.array([399, 0, 3, 399])
    np.testing.assert_array_equal(retriever.fetch(ids), vectors(400)[ids])
    assert retriever.thumbnails(ids[:1]) == [b"png-399"]
    retriever.search(vectors(2, seed=1), 3)
    assert asked == [("fetch", 2), ("thumbnails", 1), ("search", 5)]


def test_a_range_of_rows_refuses_the_rows_of_others(root: Path) -> None:
    part = Database.open(str(root)).retriever([1, 2])
    assert part.first_row > 0
    end = part.first_row + part.rows
    assert part.fetch(np.array([part.first_row, end - 1])).shape == (2, 16)
    for outside in (part.first_row - 1, end):
        with pytest.raises(DatabaseError, match=f"{part.first_row} <= id < {end}"):
            part.fetch(np.array([outside]))
    with pytest.raises(DatabaseError, match=f"1 <= k <= {part.rows}"):
        part.search(np.ones((1, 16), np.float32), part.rows + 1)


def test_shards_with_a_gap_are_refused(root: Path) -> None:
    with pytest.raises(DatabaseError, match="every shard"):
        Database.open(str(root)).retriever([0, 2])
    with pytest.raises(DatabaseError, match="every shard"):
        nested(root, [0, 1], [3, 4])


def test_every_search_is_told_of_and_nothing_else_changes(root: Path, vectors: Vectors) -> None:
    searches: list[Search] = []
    retriever = Database.open(str(root)).retriever()
    observed = ObservedRetriever(retriever, searches.append)
    assert isinstance(observed, Retriever)
    queries = vectors(4, seed=1)
    found = observed.search(queries, 7)
    observed.fetch(found.ids[0])
    observed.thumbnails(found.ids[0])
    assert (observed.rows, observed.dim) == (retriever.rows, retriever.dim)
    (search,) = searches
    assert search.found is found
    np.testing.assert_array_equal(search.queries, queries)
    np.testing.assert_array_equal(found.ids, retriever.search(queries, 7).ids)
    assert 0 < search.seconds < 60
