from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdm_batch.cli import main
from rdm_batch.databases.describe import describe_database
from rdm_batch.databases.insight import look_into
from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.database import (
    DatabaseManifest,
    DatabaseShard,
    EncoderRecord,
    SearchLatency,
    SourceRecord,
    StoredFile,
    TunedSearch,
)
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.retrieval.writer import write_proposal, write_shard
from rdm_batch.specs.database import IndexSettings, Queries
from tests.browser import open_page
from tests.job_kit import write_manifest

ROWS, DIM = 400, 16


def _database(root: Path, counts: list[int] | None, leaves: int | None = None) -> Database:
    """Write rows of which 0 and 1, 2 and 3, 4 and 5 are the same but for their length."""
    embeddings = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    embeddings[1:6:2] = 2 * embeddings[0:6:2]
    rows = ShardRows(
        0, embeddings, [f"item-{n}" for n in range(ROWS)], [None] * ROWS, [None] * ROWS, None
    )
    index = IndexSettings(kind="tree_ah", leaves=leaves) if leaves else IndexSettings()
    shard = write_shard(root, 0, rows, index)
    stored = None
    if counts is not None:
        stored = write_proposal(root, Proposal(np.arange(len(counts)), np.array(counts)))
    manifest = DatabaseManifest(
        rows=ROWS,
        dim=DIM,
        dtype="float32",
        encoder=EncoderRecord(name="fake", digest=None),
        source=SourceRecord(description="numbers", images=ROWS),
        build={},
        shards=(shard,),
        proposal=stored,
    )
    write_manifest(root, manifest)
    return Database.open(str(root))


def test_duplicates_are_found_whatever_their_length(tmp_path: Path) -> None:
    report = look_into(_database(tmp_path, None))
    assert report.num_compared == ROWS
    assert report.num_duplicates == 6
    closest = {tuple(sorted((pair.row, pair.nearest))) for pair in report.pairs[:3]}
    assert closest == {(0, 1), (2, 3), (4, 5)}
    assert all(pair.similarity == pytest.approx(1) for pair in report.pairs[:3])
    assert len({frozenset((pair.row, pair.nearest)) for pair in report.pairs}) == len(report.pairs)


def test_coverage_tells_the_mass_that_top_m_keeps(tmp_path: Path) -> None:
    counts = [60, 20, 10, 5, 1, 1, 1, 1, 1]
    report = look_into(_database(tmp_path, [*counts, 0 + 1]))
    coverage = report.coverage
    assert coverage is not None
    assert coverage.entries == 10
    masses = dict(coverage.masses)
    assert masses[0.1] == pytest.approx(60 / 101)
    assert masses[0.2] == pytest.approx(80 / 101)
    assert masses[1.0] == 1
    assert coverage.curve[0] == (0, 0)
    assert coverage.curve[1] == pytest.approx((0.1, 60 / 101))
    assert coverage.curve[-1] == (1, 1)


def test_rows_of_leaves_are_counted(tmp_path: Path) -> None:
    (leaves,) = look_into(_database(tmp_path, None, leaves=8)).leaves
    assert leaves.leaves == 8
    assert leaves.fewest <= ROWS / 8 <= leaves.most


def test_the_map_is_the_same_each_time_and_pictures_do_not_overlap() -> None:
    first, second = (look_into(Database.open("package://shapes/database")).map for _ in range(2))
    assert first == second
    assert first is not None
    assert len(first.dots) == 2000
    places = np.array([(item.x, item.y) for item in first.pictured])
    assert len(places) > 20
    gaps = np.abs(places[:, None] - places[None]).max(axis=2) + 1000 * np.eye(len(places))
    assert gaps.min() > 60


def test_info_writes_a_page_that_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _database(tmp_path / "db", [3, 2, 1], leaves=8)
    page = tmp_path / "page.html"
    assert main(["database", "info", str(tmp_path / "db"), "--page", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "memory   25.0 KiB of rows" in printed
    assert "50 rows a leaf" in printed
    assert "leaves   shard 0: 8 of" in printed
    assert "p_D      3 of 400 rows" in printed
    seen = open_page(page, width=400, phone=True)
    assert seen.console_errors == ()
    assert seen.requests == ()
    assert seen.scroll_width == 400
    assert "1.5 %" in seen.dom_text  # of 400 rows six have a duplicate


def test_info_tells_recall_latency_and_memory_for_each_kind_of_query() -> None:
    def searched(kind: Queries, recall: float) -> TunedSearch:
        return TunedSearch(
            queries=kind,
            source="held-out rows",
            leaves_to_search=2,
            reorder=50,
            k=20,
            recall=recall,
            error=0.004,
            num_queries=100,
        )

    file = StoredFile(path="a", num_bytes=1_000_000, sha256="0" * 64)
    shard = DatabaseShard(
        rows=3_000,
        first_row=0,
        index=IndexSettings(kind="tree_soar", leaves=10, leaves_to_search=2),
        embeddings=file,
        rows_file=file,
        index_files=(file,),
        tuned=(searched("pictures", 0.96), searched("texts", 0.91)),
        latency=(
            SearchLatency(queries="pictures", p50_ms=0.4, p99_ms=0.9),
            SearchLatency(queries="texts", p50_ms=0.5, p99_ms=1.5),
        ),
    )
    other = shard.model_copy(
        update={
            "first_row": 3_000,
            "rows": 1_000,
            "tuned": (searched("pictures", 0.92),),
            "latency": (SearchLatency(queries="pictures", p50_ms=0.6, p99_ms=0.7),),
        }
    )
    manifest = DatabaseManifest(
        rows=4_000,
        dim=512,
        dtype="float16",
        encoder=EncoderRecord(name="fake", digest=None),
        source=SourceRecord(description="numbers", images=4_000),
        build={},
        shards=(shard, other),
    )
    facts = describe_database(manifest)
    assert facts["pictures"] == (
        "recall@20 0.950 ± 0.003; a query takes 0.600 ms (p50), 0.700 ms (p99), as built on one "
        "thread, the slowest shard"
    )
    assert facts["texts"] == (
        "recall@20 0.910 ± 0.004; a query takes 0.500 ms (p50), 1.50 ms (p99), as built on one "
        "thread; not known of 1 shard"
    )
    assert facts["memory"] == (
        "3.91 MiB of rows (mapped), 1.91 MiB of index (200 rows a leaf); 1.91 MiB resident when "
        "opened"
    )
