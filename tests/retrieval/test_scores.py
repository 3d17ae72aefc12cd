from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.native import cpu_compiler
from rdm_batch.retrieval import scores as scores_module
from rdm_batch.retrieval.embeddings import unit_rows
from rdm_batch.retrieval.score_kernels import (
    FOUND,
    INCOMPLETE,
    Best,
    Kernel,
    NativeKernel,
    NumpyKernel,
    kernel,
    stored_rows,
    tell_of_numpy,
)
from rdm_batch.retrieval.scores import (
    best_candidates,
    directions_of,
    score_candidates,
    score_pairs,
)

TYPES = (np.float16, np.float32, np.float64)


@pytest.fixture(scope="module")
def native() -> Kernel:
    if shutil.which(cpu_compiler()) is None:
        pytest.skip("there is no compiler")
    found = kernel()
    assert isinstance(found, NativeKernel), found
    return found


@pytest.fixture(params=["native", "numpy"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Let scores be computed by one kernel, or by the other."""
    chosen = NumpyKernel() if request.param == "numpy" else request.getfixturevalue("native")
    monkeypatch.setattr(scores_module, "kernel", lambda: chosen)
    return chosen


def defined_sum(products: np.ndarray) -> float:
    """What the module says of a sum, in so many words."""
    sums = [0.0] * 64
    for place, product in enumerate(products.tolist()):
        sums[place % 64] += product
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [first + second for first, second in zip(sums[:half], sums[half:], strict=True)]
    return sums[0]


def defined_score(query: np.ndarray, row: np.ndarray) -> np.float32:
    query, row = query.astype(np.float64), row.astype(np.float64)
    lengths = np.sqrt(defined_sum(query * query)) * np.sqrt(defined_sum(row * row))
    return np.float32(defined_sum(query * row) / lengths)


def hard_rows(dim: int, dtype: type[np.floating]) -> np.ndarray:
    """Random, tied, huge, tiny, subnormal and of every magnitude, with zeros of both signs."""
    random, info = np.random.default_rng(dim), np.finfo(dtype)
    rows = random.normal(size=(60, dim)).astype(dtype)
    most = 1e150 if dtype == np.float64 else info.max  # whose squares float64 holds
    least = 1e-150 if dtype == np.float64 else info.smallest_subnormal
    rows[10:20] = rows[10]
    rows[20:25] = random.choice([-1, 1], (5, dim)) * most
    rows[25:30] = random.choice([-1, 1], (5, dim)) * least
    rows[30:35] = random.normal(size=(5, dim)) * 100 * least
    scales = np.logspace(np.log10(float(least) * 10), np.log10(float(most) / 10), dim)
    rows[35:45] = random.normal(size=(10, dim)) * random.permutation(scales)
    rows[45:50, : dim // 2] = random.choice([-0.0, 0.0], (5, dim // 2))
    return np.ascontiguousarray(rows)


@pytest.mark.parametrize("dim", [1, 3, 64, 200])
@pytest.mark.parametrize("dtype", TYPES)
def test_scores_have_the_bits_that_are_defined(
    either: Kernel, dim: int, dtype: type[np.floating]
) -> None:
    rows = hard_rows(dim, dtype)
    queries = hard_rows(dim, np.float64 if dtype == np.float64 else np.float32)[[0, 10, 22, 27, 40]]
    candidates = np.tile(np.arange(60, dtype=np.uint32), (5, 1))
    found = score_candidates(queries, rows, candidates)
    expected = np.array([[defined_score(query, row) for row in rows] for query in queries])
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
    if dtype != np.float64:
        wide = queries.astype(np.float64)
        lengths = np.array([np.sqrt(defined_sum(query * query)) for query in wide])
        unit = directions_of(queries, "queries").unit
        np.testing.assert_array_equal(unit, (wide / lengths[:, None]).astype(np.float32))
        np.testing.assert_allclose(unit, unit_rows(queries), 1e-6)


@pytest.mark.parametrize("dtype", TYPES[:2])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_both_kernels_keep_the_same_rows(native: Kernel, k: int, dtype: type[np.floating]) -> None:
    rows, random = hard_rows(200, dtype), np.random.default_rng(k)
    asked = directions_of(hard_rows(200, np.float32)[[0, 11, 23, 28, 41]], "queries")
    candidates = np.stack([random.permutation(60) for _ in range(5)]).astype(np.uint32)
    rough = random.normal(size=candidates.shape).astype(np.float32)
    rough[1, 5:] = np.nan  # fewer than 7 are left
    rough[2, ::3] = np.inf
    mine, told = native.best(asked.values, stored_rows(rows), candidates, rough, k)
    other, also_told = NumpyKernel().best(asked.values, stored_rows(rows), candidates, rough, k)
    assert told == also_told == (FOUND if k == 1 else INCOMPLETE)
    for name, found, expected in zip(Best._fields, mine, other, strict=True):
        assert found.tobytes() == expected.tobytes(), name
    assert (mine.scores[1, 5:] == -np.inf).all()
    whole = score_candidates(asked.values, rows, candidates)
    scored = np.where(np.isfinite(rough), whole, -np.inf)
    for query in (0, 3, 4):
        order = np.lexsort((candidates[query], -scored[query]))[:k]
        np.testing.assert_array_equal(mine.positions[query], candidates[query, order])
        np.testing.assert_array_equal(mine.embeddings[query], rows[candidates[query, order]])


def test_every_number_of_float16_is_read_as_numpy_reads_it(native: Kernel) -> None:
    rows = np.arange(1 << 16, dtype=np.uint16).reshape(-1, 32).view(np.float16)
    # Rows with NaN or infinite values end a search: they are read without being candidates.
    finite = np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)
    positions = np.flatnonzero(finite).astype(np.uint32)[None]
    asked = directions_of(np.ones((1, 32), np.float32), "query")
    found, told = native.best(
        asked.values,
        stored_rows(rows),
        positions,
        np.zeros(positions.shape, np.float32),
        positions.size,
    )
    assert told == FOUND
    assert positions.size == (1 << 11) - 2 * 32
    expected = rows[found.positions].astype(np.float32)
    assert found.embeddings.tobytes() == expected.tobytes()


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dim", [3, 513])
def test_a_pair_scores_the_same_in_any_company(dim: int) -> None:
    random = np.random.default_rng(dim)
    queries = random.normal(size=(9, dim)).astype(np.float32)
    rows = random.normal(size=(300, dim)).astype(np.float16)
    of_query = random.integers(0, 9, 1000)
    of_row = random.integers(0, 300, 1000)
    together = score_pairs(queries, rows, of_query, of_row)
    alone = [
        score_pairs(queries[q : q + 1], rows[r : r + 1], np.array([0]), np.array([0]))[0]
        for q, r in zip(of_query, of_row, strict=True)
    ]
    np.testing.assert_array_equal(together, np.array(alone))
    # However the rows lie in memory.
    np.testing.assert_array_equal(
        score_pairs(queries, np.asfortranarray(rows), of_query, of_row), together
    )


@pytest.mark.usefixtures("either")
def test_scores_are_cosines() -> None:
    random = np.random.default_rng(0)
    queries, rows = random.normal(size=(5, 32)), random.normal(size=(5, 32))
    pairs = np.arange(5)
    expected = [
        float(q @ r / np.linalg.norm(q) / np.linalg.norm(r))
        for q, r in zip(queries, rows, strict=True)
    ]
    np.testing.assert_allclose(score_pairs(queries, rows, pairs, pairs), expected, rtol=2e-7)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_row_without_direction_is_named(value: float) -> None:
    rows = np.ones((20, 70), np.float16)
    rows[13, 5 if value else slice(None)] = value
    asked = directions_of(np.ones((2, 70), np.float32), "queries")
    candidates = np.tile(np.arange(20, dtype=np.uint32), (2, 1))
    rough = np.zeros(candidates.shape, np.float32)
    with pytest.raises(DatabaseError, match=r"shard: row 113 holds NaN .* or has norm 0"):
        best_candidates(asked, stored_rows(rows), candidates, rough, 3, "shard", 100)
    rough[:, 13] = np.nan  # no candidate any more
    found, complete = best_candidates(asked, stored_rows(rows), candidates, rough, 3, "shard")
    assert complete
    np.testing.assert_array_equal(found.positions, [[0, 1, 2], [0, 1, 2]])


@pytest.mark.usefixtures("either")
def test_rows_that_are_not_there_are_never_read() -> None:
    rows, queries = np.ones((20, 4), np.float32), np.ones((1, 4), np.float32)
    candidates = np.array([[0, 20]], np.uint32)
    with pytest.raises(DatabaseError, match="names rows that are not there; needed one of 20 rows"):
        best_candidates(
            *(directions_of(queries, "queries"), stored_rows(rows)),
            *(candidates, np.zeros((1, 2), np.float32), 1, ""),
        )
    for query, row in ((0, 20), (0, -1), (1, 0), (-1, 0)):
        with pytest.raises(IndexError):
            score_pairs(queries, rows, np.array([query]), np.array([row]))


@pytest.fixture
def _other_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for cached in (kernel, tell_of_numpy):
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in (kernel, tell_of_numpy):
        cached.cache_clear()


@pytest.mark.usefixtures("_other_machine")
def test_without_a_compiler_numpy_computes(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("CXX", "/nowhere/c++")
    found = kernel()
    assert isinstance(found, NumpyKernel)
    for _ in range(2):
        tell_of_numpy()
    said = capsys.readouterr().err
    assert said.count("note: neighbors are scored by numpy") == 1
    assert "/nowhere/c++ does not compile score_kernel.cpp: No such file" in said
