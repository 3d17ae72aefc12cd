from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.files import file_sha256
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.retrieval import tuning
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.exact import exact_top_k, recall_at_k
from rdm_batch.retrieval.index import build_index
from rdm_batch.retrieval.shard import ShardSearcher, open_shard
from rdm_batch.retrieval.tuning import HeldOut, held_out, moved, tune
from rdm_batch.specs.database import IndexSettings

Vectors = Callable[..., np.ndarray]
WriteDatabase = Callable[..., DatabaseManifest]

SOAR = IndexSettings(kind="tree_soar", leaves=60)


def curved(rows: int, seed: int) -> np.ndarray:
    """Rows of a curved manifold, whose neighbors are spread over several leaves."""
    random, shape = np.random.default_rng(seed), np.random.default_rng(1)
    points = np.tanh(random.normal(size=(rows, 12)) @ shape.normal(size=(12, 32)))
    return (10 * points + 0.1 * random.normal(size=(rows, 32))).astype(np.float16)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return curved(4000, 3)


def test_the_search_is_as_hard_as_each_kind_of_query_needs(
    rows: np.ndarray, write_database: WriteDatabase, tmp_path: Path
) -> None:
    manifest = write_database(tmp_path, rows, settings=SOAR)
    (shard,) = manifest.shards
    assert Database.open(str(tmp_path)).manifest == manifest
    pictures, texts = shard.tuned
    assert (pictures.queries, texts.queries) == ("pictures", "texts")
    for tuned in shard.tuned:
        assert tuned.recall >= 0.95 - 2 * tuned.error
        assert 0 < tuned.error < 0.01
        assert tuned.leaves_to_search < 60
        assert tuned.num_queries == 1_000
    assert shard.index.leaves_to_search == pictures.leaves_to_search
    assert [latency.queries for latency in shard.latency] == ["pictures", "texts"]
    # What it was tuned to holds for queries that are no rows, too.
    queries = curved(2000, 4).astype(np.float32)
    found = open_database(tmp_path).search(queries, 20)
    assert recall_at_k(found.scores, exact_top_k(rows, queries, 20)[1]) > 0.95
    for kind, tuned in zip(("pictures", "texts"), shard.tuned, strict=True):
        settings = SearchEffort(queries=kind).settings_of(shard)
        assert settings.leaves_to_search == tuned.leaves_to_search
        assert settings.reorder == tuned.reorder


def test_the_effort_chosen_is_sure_of_its_target_and_the_least_that_is(rows: np.ndarray) -> None:
    index, k = build_index(rows, SOAR, "test"), tuning.TUNED_K
    pictures, _ = held_out(rows, None)
    few = HeldOut("pictures", "", pictures.queries[:300], pictures.own[:300])
    tuned, learned = tune(index, rows, few, 0.95), few.part(0)
    truth = tuning._truth(rows, learned, k)
    costs = {}
    for leaves in tuning._ladder(60):
        for count in (40, 48, 64, 80, 100, 150, 200):
            effort = {"leaves_to_search": leaves, "reorder": count}
            tried = index.searching(index.settings.model_copy(update=effort))
            found = tuning._recalls(tried, rows, learned, k, truth)
            if found.mean() - 1.64 * found.std(ddof=1) / np.sqrt(len(found)) >= 0.95:
                costs[leaves, count] = leaves * 4000 / 60 + 10 * count
    assert costs[tuned.leaves_to_search, tuned.reorder] == min(costs.values())


def test_recall_is_stated_on_queries_that_nothing_was_tuned_on(rows: np.ndarray) -> None:
    index = build_index(rows, SOAR, "test")
    pictures, _ = held_out(rows, None)
    # Those it is judged on are far from all rows: what was learned says nothing about them.
    queries = pictures.queries.copy()
    queries[1::2] = np.random.default_rng(0).normal(size=queries[1::2].shape)
    asked = HeldOut("pictures", "", queries, np.full(len(queries), -1))
    assert tune(index, rows, asked, 0.95).recall < 0.9


def test_captions_of_the_database_are_the_texts_where_there_are(rows: np.ndarray) -> None:
    captions = curved(64, 9).astype(np.float32)
    texts = held_out(rows, captions)[1]
    assert texts.source == "captions of the database"
    np.testing.assert_array_equal(texts.queries, captions)
    assert (texts.own == -1).all()
    assert held_out(rows, None)[1].source == "rows moved by the gap of CLIP"


def test_texts_made_of_rows_are_no_easier_than_those_of_other_pictures(rows: np.ndarray) -> None:
    index = build_index(rows, SOAR.model_copy(update={"leaves_to_search": 3}), "test")
    of_rows = held_out(rows, None)[1]
    others = moved(curved(2000, 4).astype(np.float32))
    of_others = HeldOut("texts", "", others, np.full(2000, -1))
    told, real = (tune(index, rows, asked, 0.5) for asked in (of_rows, of_others))
    assert told.recall == pytest.approx(real.recall, abs=2 * (told.error + real.error))
    # A row itself is found more surely than any other: with it they would look easier.
    with_rows = HeldOut("texts", "", of_rows.queries, np.full(len(of_rows.queries), -1))
    assert tune(index, rows, with_rows, 0.5).recall > told.recall


def test_moved_pictures_share_one_gap(rows: np.ndarray) -> None:
    pictures = rows[:200].astype(np.float32)
    unit = pictures / np.linalg.norm(pictures, axis=1, keepdims=True)
    gap = (moved(pictures) - unit).mean(axis=0)
    assert np.linalg.norm(gap) == pytest.approx(0.82, abs=0.05)


def test_leaves_that_are_given_are_not_tuned(
    rows: np.ndarray, write_database: WriteDatabase, tmp_path: Path
) -> None:
    settings = IndexSettings(kind="tree_soar", leaves=60, leaves_to_search=3, reorder=50)
    (shard,) = write_database(tmp_path, rows, settings=settings).shards
    assert {tuned.leaves_to_search for tuned in shard.tuned} == {3}
    assert {tuned.reorder for tuned in shard.tuned} == {50}


def test_rows_are_mapped_and_only_codes_are_kept(
    rows: np.ndarray, write_database: WriteDatabase, tmp_path: Path
) -> None:
    manifest = write_database(tmp_path, rows, settings=SOAR)
    (shard,) = manifest.shards
    assert shard.rows_file is not None
    np.testing.assert_array_equal(np.load(tmp_path / shard.rows_file.path), rows)
    searcher = open_shard(tmp_path, 0, manifest=manifest)
    assert isinstance(searcher._embeddings.base, np.memmap)


def test_equal_rows_and_settings_make_equal_indexes(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rdm_batch.retrieval.index import build_index, save_index\n"
        "from rdm_batch.specs.database import IndexSettings\n"
        "from tests.retrieval.test_tuning import SOAR, curved\n"
        "threads, folder = int(sys.argv[1]), Path(sys.argv[2])\n"
        "for settings in (SOAR, IndexSettings(kind='tree_ah')):\n"
        "    index = build_index(curved(3000, 3), settings, 'test', threads)\n"
        "    save_index(index, folder / settings.kind)\n"
    )
    digests = []
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        command = [sys.executable, "-c", script, str(threads), str(folder)]
        subprocess.run(command, check=True, timeout=120, capture_output=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests.append({path.relative_to(folder): file_sha256(path) for path in files})
    assert digests[0] == digests[1]
    assert len(digests[0]) > 8


def test_a_mapped_row_without_direction_is_named_where_it_is_found(rows: np.ndarray) -> None:
    damaged = rows.copy()
    index = build_index(rows, SOAR.resolve(4000), "test")
    settings = index.settings.model_copy(update={"leaves_to_search": 60})
    damaged[77] = np.nan
    searcher = ShardSearcher(damaged, index.searching(settings), first_row=100)
    with pytest.raises(DatabaseError, match="row 177 holds NaN"):
        searcher.search(rows[77:78].astype(np.float32), 3)
