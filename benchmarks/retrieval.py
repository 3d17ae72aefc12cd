"""Measure neighbor search: build time, latency, recall and bytes, beside exact search.

    python benchmarks/retrieval.py [--rows 8192 50000 ...] [--dim 512]

For each number of rows one shard is built as a database build would (settings ``auto``),
then queried one at a time and in batches. Exact search by a plain numpy matrix product
runs beside it on the same queries. The floor of a search is the number of bytes it must
read over the memory bandwidth, or for a scan the number of multiplications over the
speed of a matrix product, whichever is longer; both are measured in the same run. The gap
is the measured time over the floor; rows that fit the processor's caches can beat it.
Rows and queries are clustered, as image embeddings are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scann

from rdm_batch.retrieval.embeddings import unit_rows
from rdm_batch.retrieval.exact import exact_top_k, recall_at_k
from rdm_batch.retrieval.index import IndexSettings, build_index, save_index
from rdm_batch.retrieval.shard import ShardSearcher

K = 20
BATCH = 256
RESULTS = Path(__file__).parent / "results"


def clustered(rows: int, dim: int, random: np.random.Generator, centers: np.ndarray) -> np.ndarray:
    """Draw vectors around shared centers, of norm about 10, as raw CLIP embeddings have."""
    points = centers[random.integers(0, len(centers), rows)]
    points = points + 0.6 * random.normal(size=(rows, dim)).astype(np.float32)
    lengths = random.uniform(8.5, 11.5, size=(rows, 1)).astype(np.float32)
    scaled: np.ndarray = points / np.linalg.norm(points, axis=1, keepdims=True) * lengths
    return scaled


def measure(calls: list[Callable[[], Any]]) -> list[float]:
    """Time each call once, after one warm-up of the first."""
    calls[0]()
    times = []
    for call in calls:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def percentiles(times_s: list[float], per: int = 1) -> dict[str, float]:
    """Give exact percentiles in milliseconds per unit."""
    values = np.percentile(np.array(times_s) * 1e3 / per, [50, 95, 99], method="inverted_cdf")
    return dict(zip(("p50_ms", "p95_ms", "p99_ms"), values.round(4).tolist(), strict=True))


def memory_bandwidth() -> float:
    """Measure the bytes per second a sum over a large float32 array reads on one thread."""
    array = np.ones(64 << 20, dtype=np.float32)
    times = measure([array.sum] * 5)
    return array.nbytes / min(times)


def product_speed(dim: int) -> float:
    """Measure the multiply-adds per second of a float32 matrix product."""
    left, right = np.ones((BATCH, dim), np.float32), np.ones((dim, 8192), np.float32)
    times = measure([lambda: left @ right] * 5)
    return BATCH * dim * 8192 / min(times)


def scanned_bytes(settings: IndexSettings, rows: int, dim: int, batch: int) -> float:
    """Count the bytes one query of a batch must read, at least.

    A scanned shard reads its float32 rows once per batch. A partitioned one reads its
    centers once per batch, and per query the 4-bit codes (one per two dimensions) of the
    searched leaves and the vectors of the reordered candidates.
    """
    if settings.kind == "brute_force":
        return rows * dim * 4 / batch
    leaves, searched = settings.leaves or 1, settings.leaves_to_search or 1
    value_bytes = {"float32": 4, "bfloat16": 2, "int8": 1}[settings.quantization]
    codes = rows * searched / leaves * dim / 4
    return leaves * dim * 4 / batch + codes + settings.reorder * dim * value_bytes


def numpy_search(unit: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Search exactly by one matrix product: what an index has to beat."""
    scores = unit_rows(queries) @ unit.T
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
    ids: np.ndarray = np.take_along_axis(best, order, axis=1)
    return ids


def run_size(
    rows: int, dim: int, bandwidth: float, speed: float, threads: int, singles: int
) -> dict[str, Any]:
    """Build one shard and measure it."""
    random = np.random.default_rng(rows)
    centers = random.normal(size=(max(20, rows // 250), dim)).astype(np.float32)
    embeddings = clustered(rows, dim, random, centers).astype(np.float16)
    queries = clustered(4 * BATCH, dim, random, centers)
    started = time.perf_counter()
    index = build_index(embeddings, IndexSettings(), "benchmark", threads)
    build_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        files = save_index(index, Path(folder) / "index")
        index_bytes = sum(path.stat().st_size for path in files)
    searcher = ShardSearcher(embeddings, index)
    unit = unit_rows(embeddings)
    alone = [queries[i : i + 1] for i in range(singles)]
    batches = [queries[i : i + BATCH] for i in range(0, len(queries), BATCH)]
    exact = exact_top_k(embeddings, queries[:BATCH], K)[1]
    found = searcher.search(queries[:BATCH], K)
    scan_ms = rows * dim / speed * 1e3 if index.settings.kind == "brute_force" else 0.0
    floors = {
        name: max(scan_ms, scanned_bytes(index.settings, rows, dim, size) / bandwidth * 1e3)
        for name, size in (("single", 1), ("batch", BATCH))
    }
    result: dict[str, Any] = {
        "rows": rows,
        "dim": dim,
        "index": index.settings.model_dump(),
        "build_s": round(build_s, 2),
        "index_bytes": index_bytes,
        "embedding_bytes": embeddings.nbytes,
        "recall_at_20": round(recall_at_k(found.scores, exact), 4),
        "single": percentiles(measure([lambda q=q: searcher.search(q, K) for q in alone])),
        "batch_per_query": percentiles(
            measure([lambda b=b: searcher.search(b, K) for b in batches]), BATCH
        ),
        "numpy_single": percentiles(
            measure([lambda q=q: numpy_search(unit, q) for q in alone[: max(10, singles // 10)]])
        ),
        "numpy_batch_per_query": percentiles(
            measure([lambda b=b: numpy_search(unit, b) for b in batches[:2]]), BATCH
        ),
        "floor_single_ms": round(floors["single"], 4),
        "floor_batch_per_query_ms": round(floors["batch"], 4),
    }
    result["gap_single"] = round(result["single"]["p50_ms"] / floors["single"], 1)
    result["gap_batch"] = round(result["batch_per_query"]["p50_ms"] / floors["batch"], 1)
    return result


def render(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    machine = report["machine"]
    lines = [
        "# Neighbor search",
        "",
        f"{machine['processor']}, {machine['cpus']} CPUs (load average "
        f"{machine['load_average']:.1f} at the start), {report['threads']} search threads; "
        f"memory bandwidth {report['bandwidth_gb_s']:.1f} GB/s on one thread, "
        f"matrix product {report['matrix_product_gmac_s']:.0f} G multiply-adds/s; "
        f"k = {K}, batches of {BATCH}, clustered float16 rows of width {report['dim']}.",
        "",
        "Floor: bytes a query must read over that bandwidth, or the multiply-adds of a scan over "
        "that speed, whichever is longer. Gap: measured p50 over floor; below 1, caches helped.",
        "",
        "| rows | index | build s | index MB | recall@20 | one query p50 / p95 / p99 ms "
        "| floor ms | gap | numpy p50 ms | in batches, ms a query | floor ms | gap "
        "| numpy ms a query |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size in report["sizes"]:
        index, single = size["index"], size["single"]
        kind = "scan"
        if index["kind"] == "tree_ah":
            kind = f"{index['leaves_to_search']} of {index['leaves']} leaves"
        lines.append(
            f"| {size['rows']:,} | {kind} | {size['build_s']} "
            f"| {size['index_bytes'] / 1e6:.1f} | {size['recall_at_20']:.4f} "
            f"| {single['p50_ms']:.3f} / {single['p95_ms']:.3f} / {single['p99_ms']:.3f} "
            f"| {size['floor_single_ms']:.3f} | {size['gap_single']} "
            f"| {size['numpy_single']['p50_ms']:.3f} "
            f"| {size['batch_per_query']['p50_ms']:.3f} "
            f"| {size['floor_batch_per_query_ms']:.4f} | {size['gap_batch']} "
            f"| {size['numpy_batch_per_query']['p50_ms']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[8_192, 20_000, 60_000, 200_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1, help="threads of one search")
    parser.add_argument("--singles", type=int, default=300, help="queries timed one at a time")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    bandwidth, speed = memory_bandwidth(), product_speed(args.dim)
    report: dict[str, Any] = {
        "machine": {
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg()[0],
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
            "scann": getattr(scann, "__version__", "1.4"),
        },
        "bandwidth_gb_s": bandwidth / 1e9,
        "matrix_product_gmac_s": speed / 1e9,
        "dim": args.dim,
        "threads": args.threads,
        "sizes": [],
    }
    for rows in args.rows:
        size = run_size(rows, args.dim, bandwidth, speed, args.threads, args.singles)
        report["sizes"].append(size)
        print(json.dumps(size), file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "retrieval.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "retrieval.md").write_text(render(report))
    print(render(report))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
