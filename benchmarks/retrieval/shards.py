"""Measure a database of several shards on one machine: memory, time of a query, build, recall.

    python -m benchmarks.retrieval.shards --folder FOLDER --shards 5 --json FILE

Inputs: none; rows and queries are made, and FOLDER keeps the database (``databases.py``), which is
built shard by shard: stopped and started again, it goes on with the first that is missing. Queries
go to all shards, one after the other, on one thread, and are merged exactly. A model of 20 million
rows follows from what a million takes: memory and build grow with the rows, and so does the time of
a query, for every shard is asked; retrievers on several cores or machines share it.

Needed: the time of the method's authors, 20 of 20 million rows in 0.95 ms on a machine they do not
name, and their 2 GB for a million rows. Floor of a query: the bytes it must read over the memory
bandwidth of one thread. Predicted before the first run, for 5 shards of a million: 1.6 GB resident
(0.31 a million, and a base), 5 times the time of one shard (4 ms for pictures), a recall of 0.95 as
each shard has it; 20 million: 6.2 GB, 16 ms on one thread.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from benchmarks.retrieval.databases import Asked, Drawn, K
from benchmarks.retrieval.rows import KINDS
from benchmarks.retrieval.search import memory_bandwidth, scanned_bytes
from benchmarks.timing import once
from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.residency import anonymous_bytes
from rdm_batch.specs.database import IndexSettings

_PAPER_ROWS, _PAPER_MS, _PAPER_GB = 20_000_000, 0.95, 2.0


def measure_queries(database: Database, asked: Asked, bandwidth: float) -> tuple[Row, float]:
    """Ask queries of one kind one by one; give the row, and the median in milliseconds."""
    effort, manifest = SearchEffort(queries=asked.kind), database.manifest
    retriever = database.retriever(effort=effort)
    recall = asked.recall(lambda queries: retriever.search(queries, K).scores)
    times = [1e3 * once(lambda q=query: retriever.search(q[None], K))[0] for query in asked.queries]
    p50, p99 = np.percentile(times[1:], [50, 99], method="inverted_cdf").tolist()
    settings = [effort.settings_of(shard) for shard in manifest.shards]
    read = sum(
        scanned_bytes(each, shard.rows, manifest.dim, 1)
        for each, shard in zip(settings, manifest.shards, strict=True)
    )
    row = Row(
        name=f"{asked.kind}, p50 of one query",
        value=p50,
        unit="ms",
        floor=1e3 * read / bandwidth,
        needed=_PAPER_MS,
        details={
            "p99 ms": p99,
            "recall": recall,
            "leaves searched, each shard": ", ".join(str(s.leaves_to_search) for s in settings),
            "ms a million rows": p50 / manifest.rows * 1e6,
        },
    )
    return row, p50


def resident_gb(folder: Path) -> float:
    """Count what opening all shards takes, in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.retrieval.shards", "--open", str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(argv: list[str] | None = None) -> None:
    """Build what is missing, and measure."""
    parser = parser_of(__doc__)
    parser.add_argument("--folder", type=Path, help="keeps what is built")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of a shard")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kind", choices=KINDS, default="manifold")
    parser.add_argument("--shards", type=int, default=5)
    parser.add_argument("--queries", type=int, default=500, help="of each kind")
    parser.add_argument("--build", action="store_true", help="build what is missing, end")
    parser.add_argument("--open", type=Path, metavar="FOLDER", help="count memory, end")
    args = parser.parse_args(argv)
    if args.open is not None:
        before = anonymous_bytes()
        kept = Database.open(str(args.open)).retriever()
        print((anonymous_bytes() - before) / 1e9)
        del kept
        return
    drawn = Drawn(args.folder / f"{args.kind}-{args.rows}", args.kind, args.rows, args.dim)
    database = drawn.build(args.shards, IndexSettings(kind="tree_soar"))
    asked = drawn.asked(database, args.queries)
    if args.build:
        return
    rows, bandwidth = database.manifest.rows, memory_bandwidth()
    recorder = Recorder(
        "retrieval.shards",
        "A database of several shards",
        f"k = {K}, {rows:,} {args.kind} rows of width {args.dim} in {args.shards} shards, float16, "
        "one query at a time on one thread. Needed: what the authors of the method publish.",
        args.json,
    )
    took = [drawn.took(number) for number in range(args.shards)]
    # Of the shards that were built since it is kept; all are of one kind and size.
    known = [shard["build cpu s"] for shard in took if "build cpu s" in shard]
    build_s = sum(known) / len(known) * args.shards
    resident = resident_gb(drawn.folder)
    measured = [measure_queries(database, each, bandwidth) for each in asked]
    times = _PAPER_ROWS / rows
    recorder.add(
        f"{rows:,} rows in {args.shards} shards",
        [
            Row(
                name="resident",
                value=resident,
                unit="GB",
                needed=_PAPER_GB * rows / 1e6,
                details={"a million rows, GB": resident / rows * 1e6},
            ),
            Row(
                name="build, processor time",
                value=build_s / 3600,
                unit="h",
                details={
                    "peak GB of a shard": max(shard["peak GB"] for shard in took),
                    "threads": max(shard["threads"] for shard in took),
                },
            ),
            *(row for row, _ in measured),
            Row(
                name=f"model, {_PAPER_ROWS:,} rows",
                details={
                    "resident GB": resident * times,
                    "build h": build_s * times / 3600,
                    **{
                        f"{each.kind}: p50 ms, one thread": p50 * times
                        for each, (_, p50) in zip(asked, measured, strict=True)
                    },
                },
            ),
        ],
        {"bandwidth GB/s": bandwidth / 1e9},
    )


if __name__ == "__main__":
    run(main)
