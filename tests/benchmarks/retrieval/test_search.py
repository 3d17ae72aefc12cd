from __future__ import annotations

from pathlib import Path

from benchmarks.records import read_record
from benchmarks.retrieval.search import main


def test_a_shard_is_built_and_searched_beside_exact_search(tmp_path: Path) -> None:
    path = tmp_path / "retrieval.json"
    main(["--rows", "600", "--dim", "16", "--singles", "5", "--json", str(path)])
    record = read_record(path)
    assert record is not None
    (part,) = record.parts
    build, single, batch = part.rows
    assert build.details["index"] == "scan"
    assert build.details["recall@20"] == 1
    assert single.name == "600 rows: one query, p50"
    assert batch.name == "600 rows: a query in batches of 256, p50"
    for row in (single, batch):
        assert row.ratio > 0 < row.gap
        assert row.value <= row.details["p95 ms"] <= row.details["p99 ms"]
    # A batch reads the rows once for all; multiplications bound both alike.
    assert batch.floor <= single.floor
