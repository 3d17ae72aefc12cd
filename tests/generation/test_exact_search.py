"""Neighbors found by streaming all rows past all queries, ahead of generation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rdm_batch.cluster import streamed_search
from rdm_batch.cluster.local import LocalCluster
from rdm_batch.cluster.streamed_search import BlockSearcher
from rdm_batch.errors import DatabaseError
from rdm_batch.generation import exact_search
from rdm_batch.generation.engines import describe_engines, engine_of, search_effort
from rdm_batch.generation.exact_search import search_ahead
from rdm_batch.generation.job import run
from rdm_batch.generation.modes.mode import SampleInputs
from rdm_batch.generation.preflight import dry_run
from rdm_batch.inputs.databases import Database
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval import streaming
from rdm_batch.retrieval.conditioning import from_queries
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.embeddings import unit_rows
from rdm_batch.retrieval.exact import ExactScan, exact_top_k
from rdm_batch.retrieval.index import IndexSettings
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.retrieval.streaming import RowBlock, scan_for
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.load import parse_job
from rdm_batch.storage.object_store import open_store
from rdm_batch.storage.sample_set import SampleSet
from tests.job_kit import DIM, ROWS, write_database, write_job
from tests.worlds import World, checked


def brute_force(rows: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    unit, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries))
    return np.argsort(-(asked @ unit.T), axis=1, kind="stable")[:, :k]


def columns(uri: str, *names: str) -> list[dict[str, Any]]:
    found = []
    for batch in SampleSet.open(uri).iter_batches(list(names)):
        found += batch.to_pylist()
    return found


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK_ROWS", 10)
    monkeypatch.setattr(streamed_search, "READ_ROWS", 4)


def test_a_job_finds_by_streaming_what_scans_find(world: World, tmp_path: Path) -> None:
    jobs = [
        world.job(database__engine=engine, evaluation=None, output__uri=str(tmp_path / engine))
        for engine in ("scann", "exact")
    ]
    scann, exact = (run(parse_job(job, "job"), "none") for job in jobs)
    names = ("image", "neighbor_ids", "neighbor_scores", "query_id")
    assert columns(str(tmp_path / "scann"), *names) == columns(str(tmp_path / "exact"), *names)
    assert not (tmp_path / "exact/_search").exists() or not any(
        (tmp_path / "exact/_search").iterdir()
    )
    assert scann.retrieval is not None
    assert exact.retrieval is not None
    assert (scann.retrieval.engine, exact.retrieval.engine) == ("scann", "exact")
    assert scann.retrieval.resident_bytes is not None
    assert exact.retrieval.recall is None


def test_what_a_mode_looks_up_once_is_searched_ahead_too(world: World, tmp_path: Path) -> None:
    conditioning = {"mode": "class", "k_nn": 2, "labels": ["red", "blue"], "pool_size": 6}
    found = []
    for engine in ("scann", "exact"):
        out = str(tmp_path / engine)
        job = world.job(
            database__engine=engine, evaluation=None, output__uri=out, conditioning=conditioning
        )
        run(parse_job(job, "job"), "none")
        found.append(columns(out, "neighbor_ids", "image"))
    assert found[0] == found[1]


def test_only_the_exact_engine_makes_another_identity(world: World) -> None:
    digest = checked(world.document).header.digest
    assert checked(world.job(database__engine="auto")).header.digest == digest
    assert checked(world.job(database__engine="scann")).header.digest == digest
    assert checked(world.job(database__engine="exact")).header.digest != digest


def test_a_database_without_an_index_is_searched_exactly(world: World, tmp_path: Path) -> None:
    manifest = write_database(tmp_path / "db", settings=IndexSettings(kind="none"))
    spec = parse_job(world.job(database__uri=str(tmp_path / "db")), "job")
    assert engine_of(spec, manifest) == "exact"
    assert search_effort(spec, manifest).exactly
    assert any("a shard has no index" in line for line in describe_engines(spec, manifest))


def test_a_dry_run_tells_what_each_engine_costs(world: World, tmp_path: Path) -> None:
    text, ready = dry_run(write_job(tmp_path / "job.yaml", world.document), [])
    assert ready
    assert "24 queries at most, by scann (auto)" in text
    for engine in ("scann", "exact"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {engine}")]
        for part in ("reads ", "on one core", "of memory", "recall 100"):
            assert part in line


@pytest.mark.parametrize("kind", ["brute_force", "none"])
def test_blocks_of_any_shard_give_what_brute_force_gives(tmp_path: Path, kind: Any) -> None:
    write_database(tmp_path, settings=IndexSettings(kind=kind))
    database = Database.open(str(tmp_path))
    rows = database.retriever(effort=SearchEffort(exactly=True)).fetch(np.arange(ROWS))
    queries = np.random.default_rng(3).normal(size=(300, DIM)).astype(np.float32)
    worker = BlockSearcher(database, "cpu", 0)
    best = streaming.Best.none(300, 5)
    blocks = streaming.blocks_of(database.manifest)
    assert len(blocks) == 5
    for number in (3, 0, 4, 1, 2):
        best = best.merge(worker.search(blocks[number], queries, 5))
    np.testing.assert_array_equal(best.ids, brute_force(rows, queries, 5))


def test_the_product_of_a_gpu_finds_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    rows = random.normal(size=(200, DIM)).astype(np.float16)
    rows[50:90] = rows[50]  # more equal rows than k: decided by their ids
    queries = np.concatenate([random.normal(size=(299, DIM)), rows[50:51]]).astype(np.float32)
    scan = ExactScan(queries, 5, streaming.TorchSelect(unit_rows(queries), "cpu"))
    for start in (160, 0, 40, 80, 120):
        scan.add(rows[start : start + 40], start)
    ids, scores = exact_top_k(rows, queries, 5)
    np.testing.assert_array_equal(scan.ids, ids)
    np.testing.assert_array_equal(scan.scores, scores)
    np.testing.assert_array_equal(scan.ids[299], np.arange(50, 55))


def test_rows_are_streamed_from_a_bucket(moto_uri: str, tmp_path: Path) -> None:
    write_database(tmp_path, settings=IndexSettings(kind="none"))
    store = open_store(moto_uri)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            store.write_bytes(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    queries = np.random.default_rng(3).normal(size=(7, DIM)).astype(np.float32)
    block = RowBlock(1, 0, 5, 25)
    there = BlockSearcher(Database.open(moto_uri), "cpu", 0).search(block, queries, 4)
    here = BlockSearcher(Database.open(str(tmp_path)), "cpu", 0).search(block, queries, 4)
    np.testing.assert_array_equal(there.ids, here.ids)
    np.testing.assert_array_equal(there.scores, here.scores)


class Asking:
    """Condition every sample on the neighbors of a query of its own."""

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        queries = np.stack(
            [np.random.default_rng(index).normal(size=DIM) for index in noise.sample_indices]
        )
        return SampleInputs(from_queries(retriever, queries.astype(np.float32), 4, "neighbors"))


def test_a_finished_block_is_never_searched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_database(tmp_path / "db")
    database = Database.open(str(tmp_path / "db"))
    rows = database.retriever(effort=SearchEffort(exactly=True))
    searched: list[int] = []
    search = BlockSearcher.search

    def watched(self: BlockSearcher, block: RowBlock, *others: Any) -> Any:
        if block.number == 3 and not searched.count(99):
            searched.append(99)
            raise DatabaseError("block", "is lost")
        searched.append(block.number)
        return search(self, block, *others)

    monkeypatch.setattr(BlockSearcher, "search", watched)

    def ahead() -> exact_search.FoundRetriever:
        with Progress(Console(file=io.StringIO())) as progress:
            return search_ahead(
                LocalCluster(),
                database,
                rows,
                Asking(),
                0,
                np.arange(50),
                str(tmp_path / "out"),
                progress,
            )

    with pytest.raises(DatabaseError, match="is lost"):
        ahead()
    found = ahead()
    assert searched == [0, 1, 2, 99, 3, 4]
    assert ahead() is not None
    assert searched == [0, 1, 2, 99, 3, 4]
    inputs = Asking()(SampleNoise(0, np.arange(50)), found).conditioning
    expected = Asking()(SampleNoise(0, np.arange(50)), rows).conditioning
    np.testing.assert_array_equal(inputs.neighbor_ids, expected.neighbor_ids)
    np.testing.assert_array_equal(inputs.context, expected.context)


def test_queries_nobody_searched_for_are_scanned(tmp_path: Path) -> None:
    write_database(tmp_path)
    rows = Database.open(str(tmp_path)).retriever(effort=SearchEffort(exactly=True))
    found = exact_search.FoundRetriever(rows, {}, streaming.Best.none(0, 0))
    queries = np.random.default_rng(1).normal(size=(3, DIM)).astype(np.float32)
    np.testing.assert_array_equal(found.search(queries, 4).ids, rows.search(queries, 4).ids)
    assert scan_for(queries, 4, "cpu").ids.shape == (3, 4)
