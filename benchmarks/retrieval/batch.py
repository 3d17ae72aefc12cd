"""Measure a whole job's queries at once: 50,000 past a million rows, by both engines.

    python -m benchmarks.retrieval.batch --folder FOLDER --queries 50000 --json FILE

Inputs: none; rows and queries are made, and FOLDER keeps the database (``databases.py``) and what
has been found so far: stopped and started again, it goes on with the first block of rows that is
missing. The approximate engine is asked as head workers ask it, 256 queries at a time.

Floor of the exact engine: its multiply-adds over the speed of a float32 matrix product of the shape
it uses, measured in the same run; of the approximate one the bytes its queries must read over the
memory bandwidth of one thread. Baseline of the approximate engine: the exact one. Predicted before
the first run, on one core: 2.6e13 multiply-adds at 40 to 80 G/s are 5 to 11 minutes, and a fifth
more to choose among the products; by index 50,000 x 0.8 ms = 40 s at a recall of 0.95.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from benchmarks.retrieval.databases import Drawn, K
from benchmarks.retrieval.rows import KINDS, Rows
from benchmarks.retrieval.search import BATCH, memory_bandwidth, product_speed, scanned_bytes
from benchmarks.timing import once
from rdm_batch.files import written_aside
from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.exact import recall_at_k
from rdm_batch.retrieval.rows import row_blocks
from rdm_batch.retrieval.streaming import READ_ROWS, Best, RowBlock, blocks_of, scan_for
from rdm_batch.specs.database import IndexSettings

_QUERY_SEED = 5


def search_block(
    database: Database, block: RowBlock, queries: np.ndarray, k: int, device: str
) -> Best:
    """Search one block as the exact engine does: read once, past all queries."""
    manifest = database.manifest
    shard = manifest.shards[block.shard]
    scan = scan_for(queries, k, device)
    path = Path(database.uri) / shard.row_bytes.path
    with path.open("rb") as file:
        read = row_blocks(file, shard, manifest, block.start, block.stop, READ_ROWS, str(path))
        for start, rows in read:
            scan.add(rows, shard.first_row + start)
    return Best(scan.ids, scan.scores)


def search_exactly(
    database: Database, queries: np.ndarray, k: int, folder: Path, device: str = "cpu"
) -> tuple[list[float], Best]:
    """Search all blocks, or those that are missing in a folder; give the seconds of each."""
    folder.mkdir(parents=True, exist_ok=True)
    seconds: list[float] = []
    best = Best.none(len(queries), k)
    for block in blocks_of(database.manifest):
        path = folder / f"block-{block.number}.npz"
        if not path.exists():
            took, found = once(
                lambda block=block: search_block(database, block, queries, k, device)
            )
            with written_aside(path) as aside, aside.open("wb") as file:
                np.savez(file, ids=found.ids, scores=found.scores, seconds=took)
            print(f"block {block.number}: {took:,.0f} s", flush=True)
        kept: Any = np.load(path)
        seconds.append(float(kept["seconds"]))
        best = best.merge(Best(kept["ids"], kept["scores"]))
    return seconds, best


def search_by_index(
    database: Database, queries: np.ndarray, k: int, threads: int
) -> tuple[float, Best]:
    """Search as head workers ask, a batch at a time; opening the database is not counted."""
    retriever = database.retriever(effort=SearchEffort(), num_threads=threads)
    retriever.search(queries[:BATCH], k)

    def search() -> Best:
        found = [
            retriever.search(queries[start : start + BATCH], k)
            for start in range(0, len(queries), BATCH)
        ]
        return Best(
            np.concatenate([part.ids for part in found]),
            np.concatenate([part.scores for part in found]),
        )

    return once(search)


def main(argv: list[str] | None = None) -> None:
    """Search with both engines."""
    parser = parser_of(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="keeps what is built and found")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kind", choices=KINDS, default="manifold")
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=1, help="of the approximate engine")
    args = parser.parse_args(argv)
    drawn = Drawn(args.folder / f"{args.kind}-{args.rows}", args.kind, args.rows, args.dim)
    database = drawn.build(1, IndexSettings(kind="tree_soar"))
    queries = Rows(args.kind, args.rows, args.dim).draw(args.queries, _QUERY_SEED)
    recorder = Recorder(
        "retrieval.batch",
        "All queries of a job at once",
        f"{args.queries:,} queries past {args.rows:,} {args.kind} rows of width {args.dim}, "
        f"k = {K}.",
        args.json,
        "the exact engine",
    )
    speed, bandwidth = product_speed(args.dim), memory_bandwidth()
    folder = drawn.folder / f"batch-{len(queries)}"
    found_before = len(list(folder.glob("block-*.npz")))
    block_s, exact = search_exactly(database, queries, K, folder)
    exact_s = sum(block_s)
    index_s, found = search_by_index(database, queries, K, args.threads)
    (shard,) = database.manifest.shards
    settings = SearchEffort().settings_of(shard)
    read = len(queries) * scanned_bytes(settings, args.rows, args.dim, BATCH)
    products = float(len(queries)) * args.rows * args.dim
    recorder.add(
        f"{args.queries:,} queries, {args.rows:,} {args.kind} rows",
        [
            Row(
                name="exact",
                value=exact_s,
                unit="s",
                floor=products / speed,
                details={
                    "multiply-adds, T": products / 1e12,
                    "recall": 1.0,
                    "seconds of each block": ", ".join(f"{took:.0f}" for took in block_s),
                },
            ),
            Row(
                name="scann",
                value=index_s,
                unit="s",
                baseline=exact_s,
                floor=read / bandwidth,
                details={
                    "recall": recall_at_k(found.scores, exact.scores),
                    "ms a query": 1e3 * index_s / len(queries),
                },
            ),
        ],
        {
            "search threads": args.threads,
            "threads of matrix products": os.environ.get("OMP_NUM_THREADS", "all"),
            "matrix product G multiply-adds/s": speed / 1e9,
            "bandwidth GB/s": bandwidth / 1e9,
        },
        [
            f"{found_before} of {len(block_s)} blocks were searched in an earlier run, on this "
            "machine; the exact engine's seconds are those of all blocks, added up."
        ],
    )


if __name__ == "__main__":
    run(main)
