from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.records import read_record
from benchmarks.retrieval.at_scale import main
from benchmarks.retrieval.databases import Drawn, K
from benchmarks.retrieval.raw_scann import write_raw_index
from benchmarks.retrieval.rows import KINDS, Kind, Rows
from rdm_batch.retrieval.embeddings import unit_rows
from rdm_batch.retrieval.index import build_index, load_index, save_index, scann_searcher
from rdm_batch.specs.database import IndexSettings


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
    memory, build, pictures, recall, texts, _, few, fewer = part.rows
    assert memory.name == "600 manifold rows: resident, a million rows"
    assert build.details["peak GB"] > 0
    assert recall.value == pictures.details["this: recall"]
    assert recall.needed == 0.95 > fewer.needed == 0.9
    assert (pictures.needed, texts.needed, few.needed) == (1.0, None, 1.0)
    for row in (pictures, texts, few):
        assert {"this: recall", "raw: recall", "before: recall"} <= row.details.keys()
        assert row.details["this: recall"] > 0.8
        assert row.details["raw: recall"] >= row.details["this: recall"] - 0.002


def test_raw_scann_is_given_the_very_index_it_would_build(tmp_path: Path) -> None:
    rows = Rows("manifold", 400, 16).draw(400, seed=1).astype(np.float16)
    index = build_index(rows, IndexSettings(kind="tree_soar", leaves=4, reorder=100), "test")
    save_index(index, tmp_path / "this")
    write_raw_index(tmp_path / "this", rows, tmp_path / "assembled")
    built = tmp_path / "built"
    built.mkdir()
    raw = scann_searcher(unit_rows(rows), index.settings, rescored_inside=True)
    raw.serialize(str(built), relative_path=True)
    names = sorted(path.name for path in built.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "assembled").iterdir())
    rounded = "bfloat16_dataset.npy"  # whose header numpy writes in other words
    np.testing.assert_array_equal(
        np.load(built / rounded), np.load(tmp_path / "assembled" / rounded)
    )
    for name in set(names) - {"scann_assets.pbtxt", rounded}:
        assert (built / name).read_bytes() == (tmp_path / "assembled" / name).read_bytes(), name
    settings = index.settings.model_copy(update={"kind": "tree_ah"})
    loaded = load_index(tmp_path / "assembled", names, 400, settings)
    queries = unit_rows(rows[:5])
    for found, expected in zip(
        loaded.candidates(queries, 7), raw.search_batched(queries, 7), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_a_database_grows_by_the_shards_that_are_missing(tmp_path: Path) -> None:
    drawn = Drawn(tmp_path, "manifold", 300, 16)
    settings = IndexSettings(kind="tree_soar", leaves=3)
    (first,) = drawn.build(1, settings).manifest.shards
    database = drawn.build(2, settings)
    assert database.manifest.shards[0] == first
    assert database.manifest.rows == 600
    pictures, texts = drawn.asked(database, 10)
    found = database.retriever().search_exactly(pictures.queries, K)
    np.testing.assert_array_equal(found.scores, pictures.exact)
    assert (texts.exact[:, 0] < pictures.exact[:, 0]).mean() > 0.5
