"""The pool on a Ray of two nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.cluster.connect import connected
from rdm_batch.cluster.local import LocalCluster
from rdm_batch.cluster.pool import Cluster, RetrieverNeeds, WorkerNeeds
from rdm_batch.errors import ClusterError, DatabaseError, SpecError
from rdm_batch.inputs.databases import Database
from tests.cluster.kit import (
    LargeWorker,
    MortalWorker,
    OneGpuLostWorker,
    PlainWorker,
    RefusedWorker,
    failure,
)
from tests.job_kit import DIM, ROWS, write_database
from tests.ray_kit import actor_processes
from tests.ray_nodes import TwoNodes

THREE_AT_ONCE = WorkerNeeds(in_flight=3)


@pytest.fixture(scope="module")
def cluster(two_nodes: TwoNodes) -> Iterator[Cluster]:
    with connected(two_nodes.address) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    root = tmp_path_factory.mktemp("database")
    write_database(root)
    return Database.open(str(root))


def where(item: object) -> str:
    return f"item {item}"


def test_the_cluster_says_what_it_has(cluster: Cluster) -> None:
    assert isinstance(cluster, Cluster)
    assert (cluster.resources.num_nodes, cluster.resources.num_cpus) == (2, 2.0)
    assert [node.num_cpus for node in cluster.nodes()] == [1, 1]


def test_few_items_are_spread_over_all_workers(cluster: Cluster) -> None:
    with cluster.workers(PlainWorker, 2, THREE_AT_ONCE) as pool:
        found = [place for _, place in pool.map(PlainWorker.where, [0.0, 0.0], where=where)]
        assert len({process for process, _ in found}) == 2
        found = [place for _, place in pool.map(PlainWorker.where, [0.2] * 6, where=where)]
        assert len(set(found)) == 6


def test_a_worker_whose_gpu_is_lost_goes_on_in_another_process(
    cluster: Cluster, tmp_path: Path
) -> None:
    marker = tmp_path / "lost"
    with cluster.workers(OneGpuLostWorker, 1, WorkerNeeds()) as pool:
        ((_, process),) = pool.map(OneGpuLostWorker.lose_once, [marker], where=where)
    assert process != int(marker.read_text())


def test_what_is_shared_comes_with_every_call(cluster: Cluster) -> None:
    array = np.arange(100_000)
    with cluster.workers(PlainWorker, 2, WorkerNeeds(ahead=1)) as pool:
        found = dict(pool.map(PlainWorker.add, range(20), where=where, shared=(array, 2)))
    assert found == {item: 2 * int(array.sum()) + item for item in range(20)}


def test_failures_are_what_they_were_over_there(cluster: Cluster) -> None:
    with cluster.workers(PlainWorker, 1, WorkerNeeds()) as pool:
        error = failure(lambda: list(pool.map(PlainWorker.refuse, [7], where=where)))
    assert isinstance(error, DatabaseError)
    assert str(error) == "row 7: is odd; needed an even row; leave it out"
    assert error.__cause__ is None
    assert error.__suppress_context__
    with cluster.workers(RefusedWorker, 1, WorkerNeeds()) as refused:
        error = failure(lambda: list(refused.map(PlainWorker.where, [0.0], where=where)))
    assert isinstance(error, SpecError)
    assert str(error) == "model.checkpoint: does not fit; needed another one"


def test_a_lost_worker_is_brought_back_however_large_what_it_is_made_from(
    cluster: Cluster, tmp_path: Path
) -> None:
    array = np.ones(1_000_000)
    with cluster.workers(partial(LargeWorker, array), 1, WorkerNeeds()) as pool:
        # Nothing but the actor itself needs it now.
        del array
        ((_, total),) = pool.map(LargeWorker.die_once, [tmp_path / "died"], where=where)
    assert total == 1_000_000


def test_a_worker_that_always_dies_is_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdm_batch.cluster.ray_cluster.RESTARTS", 1)
    with cluster.workers(MortalWorker, 1, WorkerNeeds()) as pool:
        error = failure(lambda: list(pool.map(MortalWorker.die, [5], where=where)))
    assert isinstance(error, ClusterError)
    assert error.where == "item 5"
    assert "its worker died and could not be brought back" in error.found


def test_workers_end_with_their_block_also_when_it_fails(
    cluster: Cluster, two_nodes: TwoNodes
) -> None:
    def fail() -> None:
        with cluster.workers(PlainWorker, 2, THREE_AT_ONCE) as pool:
            list(pool.map(PlainWorker.where, [0.0, 0.0], where=where))
            assert len(actor_processes("PlainWorker", two_nodes.folder)) == 2
            list(pool.map(PlainWorker.refuse, [7], where=where))

    assert isinstance(failure(fail), DatabaseError)
    deadline = time.monotonic() + 20
    while actor_processes("PlainWorker", two_nodes.folder):
        assert time.monotonic() < deadline, "workers outlive their block"
        time.sleep(0.1)


@pytest.mark.parametrize("num_actors", [None, 1])
def test_a_spread_database_answers_like_one_in_this_process(
    cluster: Cluster, database: Database, num_actors: int | None
) -> None:
    needs = RetrieverNeeds(num_actors=num_actors)
    queries = np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float32)
    ids = np.array([39, 0, 24, 25, 0])
    with (
        LocalCluster().retriever(database, needs) as here,
        cluster.retriever(database, needs) as there,
    ):
        assert (there.rows, there.dim) == (here.rows, here.dim) == (ROWS, DIM)
        for k in (1, 20, ROWS):
            for mine, other in (
                (here.search(queries, k), there.search(queries, k)),
                (here.search_exactly(queries, k), there.search_exactly(queries, k)),
            ):
                np.testing.assert_array_equal(mine.ids, other.ids)
                np.testing.assert_array_equal(mine.scores, other.scores)
                np.testing.assert_array_equal(mine.embeddings, other.embeddings)
        np.testing.assert_array_equal(here.fetch(ids), there.fetch(ids))
        assert here.thumbnails(ids) == there.thumbnails(ids)
        for retriever in (here, there):
            with pytest.raises(DatabaseError, match="row id 40"):
                retriever.fetch(np.array([3, 40]))
            with pytest.raises(DatabaseError, match="1 <= k <= 40"):
                retriever.search(queries, 41)
            with pytest.raises(DatabaseError, match="queries have 2 dimensions"):
                retriever.search_exactly(queries[:, :2], 1)
            with pytest.raises(DatabaseError, match="queries to"):
                retriever.search(np.full((1, DIM), np.nan, np.float32), 1)


def test_workers_search_a_spread_database(cluster: Cluster, database: Database) -> None:
    queries = np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float32)
    needs = RetrieverNeeds()
    with cluster.retriever(database, needs) as retriever:
        expected = retriever.search(queries, 3)
        with cluster.workers(PlainWorker, 1, WorkerNeeds()) as pool:
            ((_, found),) = pool.map(
                PlainWorker.search, [queries], where=where, shared=(retriever,)
            )
            wide = np.ones((1, DIM + 1), np.float32)
            error = failure(
                lambda: list(pool.map(PlainWorker.search, [wide], where=where, shared=(retriever,)))
            )
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert isinstance(error, DatabaseError)


def test_workers_answer_beside_their_items(cluster: Cluster, tmp_path: Path) -> None:
    seen: list[int] = []

    def look() -> None:
        seen.extend(pool.glance(PlainWorker.counted))
        if seen and seen[-1] > 1:
            (tmp_path / "seen").touch()

    # As many items as there are threads: the answer needs none of them.
    needs = WorkerNeeds(in_flight=2)
    with cluster.workers(PlainWorker, 1, needs) as pool:
        items = [tmp_path / "seen"] * 2
        done = list(pool.map(PlainWorker.count_until, items, where=where, on_wait=look))
    assert all(count < 1000 for _, count in done)


def test_no_answer_comes_from_a_worker_that_failed_or_is_gone(cluster: Cluster) -> None:
    with cluster.workers(RefusedWorker, 1, WorkerNeeds()) as pool:
        for _ in range(20):
            assert pool.glance(PlainWorker.counted) == []
            time.sleep(0.1)
