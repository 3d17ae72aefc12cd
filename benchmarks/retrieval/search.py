"""Measure neighbor search: build time, latency, recall and bytes, beside exact search.

    python -m benchmarks.retrieval.search --json benchmarks/results/retrieval.json

Inputs: none; rows and queries are made, clustered as image embeddings are. For each number of
rows one shard is built as a database build would (settings ``auto``), then queried one at a time
and in batches. Baseline of the ratios: exact search by a plain numpy matrix product, on the same
queries in the same run. The floor of a search is the number of bytes it must read over the memory
bandwidth, or for a scan the number of multiplications over the speed of a matrix product,
whichever is longer; both are measured in the same run. Rows that fit the processor's caches can
beat it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from benchmarks.retrieval.rows import clustered
from benchmarks.timing import best_time, once
from rdm_batch.retrieval.embeddings import unit_rows
from rdm_batch.retrieval.exact import exact_top_k, recall_at_k
from rdm_batch.retrieval.index import IndexSettings, build_index, codes_of_row, save_index
from rdm_batch.retrieval.shard import ShardSearcher
from rdm_batch.retrieval.tuning import held_out, tune

K = 20
BATCH = 256


def latencies_ms(calls: list[Callable[[], Any]], per: int = 1) -> dict[str, float]:
    """Time each call once, after one of the first; give exact percentiles, milliseconds a unit."""
    calls[0]()
    values = np.array([once(call)[0] for call in calls]) * 1e3 / per
    found = np.percentile(values, [50, 95, 99], method="inverted_cdf").tolist()
    return dict(zip(("p50", "p95", "p99"), found, strict=True))


def memory_bandwidth() -> float:
    """Measure the bytes per second a sum over a large float32 array reads on one thread."""
    array = np.ones(64 << 20, dtype=np.float32)
    return array.nbytes / best_time(array.sum, 5)


def product_speed(dim: int) -> float:
    """Measure the multiply-adds per second of a float32 matrix product."""
    left, right = np.ones((BATCH, dim), np.float32), np.ones((dim, 8192), np.float32)
    return BATCH * dim * 8192 / best_time(lambda: left @ right, 5)


def scanned_bytes(settings: IndexSettings, rows: int, dim: int, batch: int) -> float:
    """Count the bytes one query of a batch must read, at least.

    A scanned shard reads its float32 rows once per batch. A partitioned one reads its
    centers (int8) once per batch, and per query the 4-bit codes (one per two dimensions; of a
    ``tree_soar`` every row has two) of the searched leaves and the float16 rows of the candidates.
    """
    if settings.kind == "brute_force":
        return rows * dim * 4 / batch
    leaves, searched = settings.leaves or 1, settings.leaves_to_search or 1
    codes = codes_of_row(settings) * rows * searched / leaves * dim / 4
    return leaves * dim / batch + codes + settings.reorder * dim * 2


def numpy_search(unit: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Search exactly by one matrix product: what an index has to beat."""
    scores = unit_rows(queries) @ unit.T
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
    ids: np.ndarray = np.take_along_axis(best, order, axis=1)
    return ids


def measure_rows(
    rows: int, dim: int, bandwidth: float, speed: float, threads: int, singles: int
) -> list[Row]:
    """Build one shard and measure it."""
    random = np.random.default_rng(rows)
    centers = random.normal(size=(max(20, rows // 250), dim)).astype(np.float32)
    embeddings = clustered(rows, dim, random, centers).astype(np.float16)
    queries = clustered(4 * BATCH, dim, random, centers)
    build_s, index = once(lambda: build_index(embeddings, IndexSettings(), "benchmark", threads))
    if index.settings.kind == "tree_soar":
        pictures, _ = held_out(embeddings, None)
        tuned = tune(index, embeddings, pictures, index.settings.target_recall)
        effort = {"leaves_to_search": tuned.leaves_to_search, "reorder": tuned.reorder}
        index = index.searching(index.settings.model_copy(update=effort))
    with tempfile.TemporaryDirectory() as folder:
        files = save_index(index, Path(folder) / "index")
        index_bytes = sum(path.stat().st_size for path in files)
    searcher = ShardSearcher(embeddings, index)
    unit = unit_rows(embeddings)
    exact = exact_top_k(embeddings, queries[:BATCH], K)[1]
    recall = recall_at_k(searcher.search(queries[:BATCH], K).scores, exact)
    scan = index.settings.kind == "brute_force"
    kind = (
        "scan" if scan else f"{index.settings.leaves_to_search} of {index.settings.leaves} leaves"
    )
    found = [
        Row(
            name=f"{rows:,} rows: build",
            value=build_s,
            unit="s",
            details={"index": kind, "index MB": index_bytes / 1e6, f"recall@{K}": recall},
        )
    ]
    for name, size, first, plain in (
        ("one query", 1, singles, max(10, singles // 10)),
        (f"a query in batches of {BATCH}", BATCH, len(queries) // BATCH, 2),
    ):
        parts = [queries[start : start + size] for start in range(0, first * size, size)]
        ours = latencies_ms([lambda q=part: searcher.search(q, K) for part in parts], size)
        numpy = latencies_ms([lambda q=part: numpy_search(unit, q) for part in parts[:plain]], size)
        read_s = scanned_bytes(index.settings, rows, dim, size) / bandwidth
        found.append(
            Row(
                name=f"{rows:,} rows: {name}, p50",
                value=ours["p50"],
                unit="ms",
                baseline=numpy["p50"],
                floor=1e3 * max(rows * dim / speed if scan else 0.0, read_s),
                details={"p95 ms": ours["p95"], "p99 ms": ours["p99"]},
            )
        )
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure every number of rows asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[8_192, 20_000, 60_000, 200_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1, help="threads of one search")
    parser.add_argument("--singles", type=int, default=300, help="queries timed one at a time")
    args = parser.parse_args(argv)
    recorder = Recorder(
        "retrieval.search",
        "Neighbor search",
        f"k = {K}, clustered float16 rows. Floor: bytes a query must read over the memory "
        "bandwidth of one thread, or the multiply-adds of a scan over the speed of a matrix "
        "product, whichever is longer; a gap below 1 says that caches helped.",
        args.json,
        "exact search by one numpy matrix product, in the same run",
    )
    bandwidth, speed = memory_bandwidth(), product_speed(args.dim)
    settings = {
        "dim": args.dim,
        "search threads": args.threads,
        "bandwidth GB/s": bandwidth / 1e9,
        "matrix product G multiply-adds/s": speed / 1e9,
    }
    for rows in args.rows:
        found = measure_rows(rows, args.dim, bandwidth, speed, args.threads, args.singles)
        recorder.add("one shard", found, settings)


if __name__ == "__main__":
    run(main)
