from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.records import Part, read_record
from benchmarks.retrieval import batch, builds, clients, proposal, shards
from benchmarks.retrieval.batch import search_exactly
from benchmarks.retrieval.databases import Drawn, K
from rdm_batch.retrieval.proposal import Proposal, top_overlap, total_variation
from rdm_batch.specs.database import IndexSettings

SMALL = ["--rows", "400", "--dim", "16"]
SETTINGS = IndexSettings(kind="tree_soar")


def part_of(path: Path) -> Part:
    record = read_record(path)
    assert record is not None
    return record.parts[0]


def test_an_exact_search_of_a_batch_goes_on_where_it_stopped(tmp_path: Path) -> None:
    database = Drawn(tmp_path, "manifold", 300, 16).build(2, SETTINGS)
    queries = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32)
    expected = database.retriever().search_exactly(queries, K)
    kept = tmp_path / "kept"
    _, best = search_exactly(database, queries, K, kept)
    np.testing.assert_array_equal(best.ids, expected.ids)
    np.testing.assert_array_equal(best.scores, expected.scores)
    first, second = sorted(kept.iterdir())
    second.unlink()
    before = first.stat().st_mtime_ns
    _, again = search_exactly(database, queries, K, kept)
    np.testing.assert_array_equal(again.ids, expected.ids)
    assert first.stat().st_mtime_ns == before
    assert second.exists()


def test_both_engines_answer_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "batch.json"
    batch.main([*SMALL, "--folder", str(tmp_path), "--queries", "300", "--json", str(path)])
    exact, scann = part_of(path).rows
    speed = part_of(path).settings["matrix product G multiply-adds/s"]
    assert exact.floor == pytest.approx(300 * 400 * 16 / speed / 1e9)
    assert scann.baseline == exact.value
    assert 0.8 < scann.details["recall"] <= 1


def test_distributions_are_compared_row_by_row() -> None:
    exact = Proposal(np.array([5, 1, 9, 2]), np.array([4, 3, 2, 1]))
    found = Proposal(np.array([5, 9, 7]), np.array([5, 4, 1]))
    assert total_variation(exact, exact) == 0
    assert total_variation(found, exact) == pytest.approx((0.1 + 0.3 + 0.2 + 0.1 + 0.1) / 2)
    assert top_overlap(exact, exact, 0.5) == 1
    # The two first rows of one, the one first row of the other.
    assert top_overlap(found, exact, 0.5) == 0.5


def test_p_d_is_counted_by_index_and_judged_on_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "proposal.json"
    sizes = ["--images", "300", "--sample", "100", "--folder", str(tmp_path)]
    proposal.main([*SMALL, *sizes, "--json", str(path)])
    counted, exact, by_index, exactly = part_of(path).rows
    assert 0 <= counted.details["total variation"] < 0.3
    assert counted.details["recall"] > 0.8 < counted.details["overlap of top 0.1"]
    assert counted.baseline == 3 * exact.value
    images = 1_281_167 * 20_000_000 / 400 / 3600
    assert by_index.value == pytest.approx(counted.value / 300 * images)
    assert exactly.value == pytest.approx(exact.value / 100 * images)


def test_shards_are_measured_together_and_more_are_reckoned(tmp_path: Path) -> None:
    path = tmp_path / "shards.json"
    sizes = ["--shards", "2", "--queries", "20", "--folder", str(tmp_path)]
    shards.main([*SMALL, *sizes, "--json", str(path)])
    resident, build, pictures, texts, model = part_of(path).rows
    assert resident.needed == 2.0 * 800 / 1e6
    assert build.details["peak GB of a shard"] > 0
    assert pictures.details["recall"] > 0.8 < texts.details["recall"]
    modelled = model.details["pictures: p50 ms, one thread"]
    assert modelled == pytest.approx(pictures.value * 20_000_000 / 800)


def test_clients_ask_at_once_and_none_is_starved(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    sizes = ["--clients", "4", "--seconds", "0.5", "--queries", "20", "--address", "none"]
    clients.main([*SMALL, *sizes, "--folder", str(tmp_path), "--json", str(path)])
    rate, fewest = part_of(path).rows
    assert rate.details["p50 ms"] <= rate.details["p95 ms"] <= rate.details["p99 ms"]
    assert rate.value > 0
    assert 0 < fewest.value <= 1


def test_builds_are_compared_and_killed(tmp_path: Path) -> None:
    path = tmp_path / "builds.json"
    builds.main(["--rows", "600", "--dim", "16", "--kills", "1", "--json", str(path)])
    equal, memory, killed = part_of(path).rows
    assert equal.value == equal.needed > 15
    assert memory.value > 0 < memory.needed
    assert killed.value == killed.needed == equal.value
    assert killed.details
