from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.records import read_record
from benchmarks.retrieval.at_scale import main
from benchmarks.retrieval.rows import KINDS, Kind, Rows


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_their_seed_and_queries_are_none_of_them(kind: Kind) -> None:
    rows = Rows(kind, 500, 24)
    drawn = rows.draw(500, seed=1)
    np.testing.assert_array_equal(drawn, Rows(kind, 500, 24).draw(500, seed=1))
    lengths = np.linalg.norm(drawn, axis=1)
    assert 8 < lengths.min() < lengths.max() < 12
    queries = rows.draw(20, seed=2) / 10
    assert (queries @ drawn.T / 10).max() < 1.2
    assert not (rows.draw(20, seed=2)[:, None] == drawn[None]).all(axis=2).any()


def test_three_indexes_are_asked_the_same_in_one_run(tmp_path: Path) -> None:
    path = tmp_path / "at_scale.json"
    sizes = ["--rows", "600", "--dim", "16", "--queries", "20", "--kind", "manifold"]
    main([*sizes, "--json", str(path)])
    record = read_record(path)
    assert record is not None
    (part,) = record.parts
    memory, pictures, texts = part.rows
    assert memory.name == "600 manifold rows: resident, a million rows"
    for row in (pictures, texts):
        assert {"this: recall", "raw: recall", "before: recall"} <= row.details.keys()
        assert row.details["this: recall"] > 0.8
        assert row.details["raw: recall"] >= row.details["this: recall"] - 0.002
