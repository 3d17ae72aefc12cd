from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.cluster.connect import NONE, connected
from rdm_batch.cluster.local import LocalCluster
from rdm_batch.cluster.pool import Cluster, RetrieverNeeds, WorkerNeeds
from rdm_batch.errors import DatabaseError, SpecError
from rdm_batch.inputs.databases import Database
from tests.cluster.kit import PlainWorker, RefusedWorker
from tests.job_kit import ROWS, write_database


def where(item: object) -> str:
    return f"item {item}"


def test_no_address_is_needed_for_this_process() -> None:
    with connected(NONE) as cluster:
        assert isinstance(cluster, LocalCluster)
        assert isinstance(cluster, Cluster)
        assert cluster.resources.num_nodes == 1
        assert cluster.nodes() == ()


@pytest.mark.parametrize("in_flight", [1, 3])
def test_every_item_comes_back_with_its_result(in_flight: int) -> None:
    array = np.arange(5)
    with LocalCluster().workers(PlainWorker, 4, WorkerNeeds(in_flight=in_flight)) as pool:
        found = dict(pool.map(PlainWorker.add, range(10), where=where, shared=(array, 2)))
        assert found == {item: 20 + item for item in range(10)}
        assert list(pool.map(PlainWorker.add, [], where=where, shared=(array, 2))) == []


def test_one_item_at_a_time_is_done_when_it_is_asked_for_by_who_asks() -> None:
    taken: list[float] = []

    def items() -> Iterator[float]:
        for item in (0.0, 0.0):
            taken.append(item)
            yield item

    with LocalCluster().workers(PlainWorker, 1, WorkerNeeds()) as pool:
        results = pool.map(PlainWorker.where, items(), where=where)
        _, (_, thread) = next(results)
        assert thread == threading.get_ident()
        assert len(taken) == 1
        next(results)
        assert len(taken) == 2


def test_several_items_at_a_time_have_a_thread_each_and_no_more_are_taken() -> None:
    taken: list[float] = []

    def items() -> Iterator[float]:
        for number in range(9):
            taken.append(number)
            yield 0.05

    with LocalCluster().workers(PlainWorker, 1, WorkerNeeds(in_flight=3)) as pool:
        results = pool.map(PlainWorker.where, items(), where=where)
        threads = {next(results)[1][1]}
        assert len(taken) == 4
        threads |= {thread for _, (_, thread) in results}
    assert len(threads) == 3
    assert threading.get_ident() not in threads


def test_somebody_is_told_while_results_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdm_batch.cluster.pool.POLL_S", 0.02)
    told: list[None] = []
    with LocalCluster().workers(PlainWorker, 1, WorkerNeeds(in_flight=2)) as pool:
        list(
            pool.map(PlainWorker.where, [0.3, 0.3], where=where, on_wait=lambda: told.append(None))
        )
    assert len(told) > 4


@pytest.mark.parametrize("in_flight", [1, 3])
def test_failures_arrive_as_they_were_raised(in_flight: int) -> None:
    needs = WorkerNeeds(in_flight=in_flight)
    with (
        LocalCluster().workers(PlainWorker, 1, needs) as pool,
        pytest.raises(DatabaseError, match="row 7: is odd"),
    ):
        list(pool.map(PlainWorker.refuse, [7], where=where))
    with (
        pytest.raises(SpecError, match="does not fit"),
        LocalCluster().workers(RefusedWorker, 1, needs),
    ):
        pass


def test_a_database_is_searched_here(tmp_path: Path) -> None:
    write_database(tmp_path)
    database = Database.open(str(tmp_path))
    with LocalCluster().retriever(database, RetrieverNeeds(num_actors=2)) as retriever:
        assert retriever.rows == ROWS
        rows = retriever.fetch(np.arange(ROWS))
        assert retriever.search(rows, 1).ids[:, 0].tolist() == list(range(ROWS))


def test_workers_answer_beside_their_items(tmp_path: Path) -> None:
    seen: list[int] = []

    def look() -> None:
        seen.extend(pool.glance(PlainWorker.counted))
        if seen and seen[-1] > 1:
            (tmp_path / "seen").touch()

    # As many items as there are threads: the answer needs none of them.
    needs = WorkerNeeds(in_flight=2)
    with LocalCluster().workers(PlainWorker, 1, needs) as pool:
        items = [tmp_path / "seen"] * 2
        done = list(pool.map(PlainWorker.count_until, items, where=where, on_wait=look))
    assert all(count < 1000 for _, count in done)
