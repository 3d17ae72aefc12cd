from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.embeddings import unit_rows
from rdm_batch.retrieval.exact import exact_top_k, recall_at_k
from rdm_batch.retrieval.index import (
    IndexSettings,
    build_index,
    check_index_folder,
    load_index,
    save_index,
)
from rdm_batch.retrieval.shard import ShardSearcher

Vectors = Callable[..., np.ndarray]

TREE = IndexSettings(kind="tree_ah")


def test_small_shards_are_scanned_and_large_ones_partitioned() -> None:
    assert IndexSettings().resolve(20_000).kind == "brute_force"
    large = IndexSettings().resolve(40_000)
    assert (large.kind, large.leaves, large.leaves_to_search) == ("tree_soar", 200, None)
    before = IndexSettings(kind="tree_ah").resolve(40_000)
    assert (before.kind, before.leaves, before.leaves_to_search) == ("tree_ah", 200, 40)


def test_settings_never_exceed_the_rows() -> None:
    settings = IndexSettings(kind="tree_ah", leaves=100, leaves_to_search=90).resolve(10)
    assert (settings.leaves, settings.leaves_to_search) == (10, 10)


@pytest.mark.parametrize("quantization", ["float32", "bfloat16", "int8"])
def test_partitioned_recall_is_high_on_clustered_rows(vectors: Vectors, quantization: str) -> None:
    rows, queries = vectors(4000, dim=32), vectors(50, dim=32, seed=1)
    settings = IndexSettings(kind="tree_ah", quantization=quantization)
    searcher = ShardSearcher(rows, build_index(rows, settings, "test"))
    exact = exact_top_k(rows, queries, 20)[1]
    assert recall_at_k(searcher.search(queries, 20).scores, exact) >= 0.95


@pytest.mark.parametrize("kind", ["brute_force", "tree_ah", "tree_soar"])
def test_answers_do_not_depend_on_the_batch(vectors: Vectors, kind: str) -> None:
    rows, queries = vectors(2000), vectors(130, seed=1)
    # Few leaves and candidates: an index at its limits shows any dependence there is.
    settings = IndexSettings(kind=kind, leaves=40, leaves_to_search=2, reorder=12)
    searcher = ShardSearcher(rows, build_index(rows, settings, "test", num_threads=2))
    whole = searcher.search(queries, 10)
    order = np.random.default_rng(0).permutation(130)
    for size in (1, 63, 64, 130):
        for start in range(0, 130, size):
            part = order[start : start + size]
            found = searcher.search(queries[part], 10)
            np.testing.assert_array_equal(found.ids, whole.ids[part])
            np.testing.assert_array_equal(found.scores, whole.scores[part])


@pytest.mark.parametrize("kind", ["tree_ah", "tree_soar"])
def test_single_searches_find_what_batches_of_one_find(vectors: Vectors, kind: str) -> None:
    rows, queries = vectors(2000, dim=32), unit_rows(vectors(90, dim=32, seed=1))
    # More than a leaf holds: how many are found differs from query to query.
    settings = IndexSettings(kind=kind, leaves=40, leaves_to_search=1, reorder=300)
    alone, at_once = (build_index(rows, settings, "test", threads) for threads in (1, 2))
    found, scores = alone.candidates(queries, 300)
    others, their_scores = at_once.candidates(queries, 300)
    width, valid, theirs = found.shape[1], np.isfinite(scores), np.isfinite(their_scores)
    assert width < 300
    assert not valid.all()
    assert not theirs[:, width:].any()
    np.testing.assert_array_equal(valid, theirs[:, :width])
    np.testing.assert_array_equal(found, others[:, :width])
    np.testing.assert_array_equal(scores, their_scores[:, :width])
    for number in (0, 41, 89):
        one, its_scores = alone.candidates(queries[number : number + 1], 300)
        assert np.isfinite(its_scores).all()
        np.testing.assert_array_equal(one[0], found[number][valid[number]])
        np.testing.assert_array_equal(its_scores[0], scores[number][valid[number]])


def test_a_saved_index_answers_the_same_after_moving(vectors: Vectors, tmp_path: Path) -> None:
    rows, queries = vectors(1500), vectors(20, seed=1)
    index = build_index(rows, TREE, "test")
    names = [path.name for path in save_index(index, tmp_path / "a")]
    (tmp_path / "a").rename(tmp_path / "b")
    loaded = load_index(tmp_path / "b", names, 1500, index.settings)
    before = ShardSearcher(rows, index).search(queries, 10)
    after = ShardSearcher(rows, loaded).search(queries, 10)
    np.testing.assert_array_equal(before.ids, after.ids)


def test_a_scanned_shard_stores_no_index(vectors: Vectors, tmp_path: Path) -> None:
    assert save_index(build_index(vectors(50), IndexSettings(), "test"), tmp_path / "index") == []
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("kind", ["brute_force", "tree_ah"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_bad_rows_are_refused_before_scann_sees_them(
    vectors: Vectors, kind: str, value: float
) -> None:
    rows = vectors(100)
    rows[41] = value
    with pytest.raises(DatabaseError, match="row 41"):
        build_index(rows, IndexSettings(kind=kind), "test")


def test_no_rows_and_no_threads_are_refused(vectors: Vectors) -> None:
    with pytest.raises(DatabaseError, match="no rows"):
        build_index(vectors(0), IndexSettings(), "test")
    for kind in ("brute_force", "tree_ah"):
        with pytest.raises(DatabaseError, match="num_threads = 0"):
            build_index(vectors(50), IndexSettings(kind=kind), "test", num_threads=0)


def test_too_few_rows_for_codes_are_refused(vectors: Vectors) -> None:
    for kind in ("tree_soar", "tree_ah"):
        with pytest.raises(DatabaseError, match="at least 16"):
            build_index(vectors(15), IndexSettings(kind=kind), "test")


def test_places_without_a_candidate_are_marked(vectors: Vectors) -> None:
    rows = vectors(400)
    settings = IndexSettings(kind="tree_ah", leaves=40, leaves_to_search=1)
    index = build_index(rows, settings, "test")
    positions, scores = index.candidates(unit_rows(rows[:3]), 300)
    valid = np.isfinite(scores)
    assert (valid.sum(axis=1) < 300).all()
    assert (positions[~valid] == 0).all()


@pytest.fixture
def stored(vectors: Vectors, tmp_path: Path) -> tuple[Path, list[str]]:
    index = build_index(vectors(300), TREE, "test")
    return tmp_path, [path.name for path in save_index(index, tmp_path)]


def test_a_pickle_beside_the_index_is_never_opened(stored: tuple[Path, list[str]]) -> None:
    folder, names = stored
    marker = folder.parent / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    (folder / "scann_docids.pkl").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DatabaseError, match="exactly the files of the manifest"):
        load_index(folder, names, 300, TREE.resolve(300))
    with pytest.raises(DatabaseError, match=r"a pickled file scann_docids\.pkl"):
        load_index(folder, [*names, "scann_docids.pkl"], 300, TREE.resolve(300))
    assert not marker.exists()


def test_missing_index_files_are_refused(stored: tuple[Path, list[str]]) -> None:
    folder, names = stored
    (folder / "scann_assets.pbtxt").unlink()
    with pytest.raises(DatabaseError, match="exactly the files"):
        check_index_folder(folder, names)
    rest = [name for name in names if name != "scann_assets.pbtxt"]
    with pytest.raises(DatabaseError, match=r"no scann_assets\.pbtxt"):
        check_index_folder(folder, rest)
    with pytest.raises(DatabaseError, match="exactly the files"):
        check_index_folder(folder / "nowhere", names)


def test_assets_outside_the_folder_are_refused(stored: tuple[Path, list[str]]) -> None:
    folder, names = stored
    assets = folder / "scann_assets.pbtxt"
    text = assets.read_text().replace('"dataset.npy"', '"/tmp/dataset.npy"')
    text = text.replace('"hashed_dataset.npy"', '"../hashed_dataset.npy"')
    assets.write_text(text)
    with pytest.raises(DatabaseError, match="file names inside the index folder"):
        check_index_folder(folder, names)


def test_an_index_of_other_rows_is_refused(stored: tuple[Path, list[str]]) -> None:
    folder, names = stored
    with pytest.raises(DatabaseError, match="an index of 300 rows"):
        load_index(folder, names, 299, TREE.resolve(299))


def test_scann_itself_does_end_the_process_on_bad_rows() -> None:
    """Show that the checks are needed: without them a NaN row kills the process."""
    script = (
        "import numpy as np, scann\n"
        "rows = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)\n"
        "rows[7] = np.nan\n"
        "b = scann.scann_ops_pybind.builder(rows, 5, 'dot_product')\n"
        "try:\n"
        "    b.tree(10, 5, training_sample_size=300).score_ah(2).reorder(10).build()\n"
        "finally:\n"
        "    print('survived')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert b"Check failed" in done.stderr
    assert b"survived" not in done.stdout
