"""A tree over the centers of many leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdm_batch.databases.rebuild import check_rebuilt
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval import writer
from rdm_batch.retrieval.database import TunedSearch
from rdm_batch.retrieval.exact import exact_top_k, recall_at_k
from rdm_batch.retrieval.index import IndexSettings, build_index, load_index, save_index
from rdm_batch.retrieval.shard import ShardSearcher, open_shard
from rdm_batch.retrieval.upper_level import (
    UpperLevel,
    add_upper_level,
    is_worth_it,
    stored_upper_level,
    upper_level_for,
)
from tests.retrieval.conftest import Vectors, WriteDatabase

TREE = IndexSettings(kind="tree_soar", leaves=30, leaves_to_search=8)
LEVEL = UpperLevel(groups=5, searched=2)


def test_it_is_made_the_same_each_time(tmp_path: Path, vectors: Vectors) -> None:
    rows, queries = vectors(600, clusters=150), vectors(30, seed=1, clusters=150)
    plain = build_index(rows, TREE, "test")
    contents, found = [], []
    for name in ("without", "with", "again"):
        files = save_index(plain, tmp_path / name)
        if name != "without":
            add_upper_level(tmp_path / name, LEVEL)
        contents.append({path.name: path.read_bytes() for path in files})
        names = [path.name for path in files]
        loaded = load_index(tmp_path / name, names, len(rows), plain.settings)
        found.append(ShardSearcher(rows, loaded).search(queries, 10))
    assert contents[1] == contents[2]
    changed = {name for name in contents[0] if contents[0][name] != contents[1][name]}
    assert changed == {"scann_config.pb"}
    np.testing.assert_array_equal(found[1].ids, found[2].ids)
    exact = exact_top_k(rows, queries, 10)[1]
    assert 0.8 < recall_at_k(found[1].scores, exact) <= recall_at_k(found[0].scores, exact)
    assert (found[0].ids != found[1].ids).any()


@pytest.mark.parametrize("worth", [True, False])
def test_an_index_asks_for_it_where_it_is_worth_it_and_is_built_the_same_again(
    tmp_path: Path,
    vectors: Vectors,
    write_database: WriteDatabase,
    monkeypatch: pytest.MonkeyPatch,
    worth: bool,
) -> None:
    monkeypatch.setattr(writer, "UPPER_LEVEL_FROM", 29)
    monkeypatch.setattr(writer, "is_worth_it", lambda without, tuned: worth)
    # Not what is chosen now: an index is built again with what it was built with.
    assert upper_level_for(30) != LEVEL
    monkeypatch.setattr(writer, "upper_level_for", lambda leaves: LEVEL)
    rows = vectors(600, clusters=150)
    manifest = write_database(tmp_path, rows, settings=TREE)
    assert stored_upper_level(tmp_path / "index/shard-00000") == (LEVEL if worth else None)
    tuned = manifest.shards[0].search_for("texts")
    assert tuned is not None
    assert tuned.recall == pytest.approx(_recall_of_texts(tmp_path, manifest, rows))
    with Progress() as progress:
        assert check_rebuilt(str(tmp_path), progress) == []


def _recall_of_texts(root: Path, manifest: object, rows: np.ndarray) -> float:
    """Judge the stored index as it was judged when it was built."""
    from rdm_batch.retrieval.tuning import held_out, tune

    shard = open_shard(root, 0, manifest=manifest)  # type: ignore[arg-type]
    assert shard._index is not None
    return tune(shard._index, rows, held_out(rows, None)[1], 0.95).recall


@pytest.mark.parametrize(
    ("leaves", "recall", "worth"), [(10, 0.94, True), (16, 0.95, False), (10, 0.92, False)]
)
def test_it_is_worth_it_where_it_finds_as_much_with_few_leaves_more(
    leaves: int, recall: float, worth: bool
) -> None:
    def tuned(leaves: int, recall: float) -> TunedSearch:
        fields = {"queries": "texts", "source": "rows", "reorder": 64, "k": 20, "error": 0.0}
        return TunedSearch(leaves_to_search=leaves, recall=recall, num_queries=9, **fields)

    good = tuned(10, 0.95)
    assert is_worth_it([good, good], [good, tuned(leaves, recall)]) == worth
