"""Measure retrieval under load: clients that ask one query at a time, all at once.

    python -m benchmarks.retrieval.clients --folder FOLDER --clients 16 --json FILE

Inputs: none; rows and queries are made, and FOLDER keeps the database (``databases.py``). Every
client asks its next query when the last one is answered, for some seconds: threads that share a
retriever of this process, then threads that ask retriever actors on a local Ray, as heads do.

Floor of the rate: what the CPUs would answer if each did nothing but search, at the pace of one
client alone. Nobody is starved: the client that was answered least has at least half of what it
would have of a fair share. Predicted before the first run, on two cores: 1,000 queries/s in this
process (half of the time is ScaNN, which lets other threads work; the rest is Python's), p50 15 ms
and p99 30 ms of 16 clients; 600 queries/s by actors, which answer in turn and cost 1.3 ms a call.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from benchmarks.retrieval.databases import QUERY_KINDS, Drawn, K
from benchmarks.retrieval.rows import KINDS
from rdm_batch.cluster.connect import connected
from rdm_batch.cluster.pool import RetrieverNeeds
from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.specs.database import IndexSettings


def ask(
    retriever: Retriever, queries: np.ndarray, clients: int, seconds: float
) -> list[list[float]]:
    """Let clients ask for some seconds; give the milliseconds of each one's queries."""
    begin = Barrier(clients)

    def client(number: int) -> list[float]:
        times, asked = [], number
        begin.wait()
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            retriever.search(queries[asked % len(queries)][None], K)
            times.append(1e3 * (time.perf_counter() - start))
            asked += clients
        return times

    with ThreadPoolExecutor(clients) as threads:
        return list(threads.map(client, range(clients)))


def measure(
    retriever: Retriever, queries: np.ndarray, clients: int, seconds: float, name: str
) -> list[Row]:
    """Ask alone, then together."""
    ask(retriever, queries, 1, seconds / 10)  # pages that are mapped, caches
    alone = np.concatenate(ask(retriever, queries, 1, seconds / 4))
    each = ask(retriever, queries, clients, seconds)
    together = np.concatenate(each)
    p50, p95, p99 = np.percentile(together, [50, 95, 99], method="inverted_cdf").tolist()
    fewest = min(len(times) for times in each) / (len(together) / clients)
    return [
        Row(
            name=f"{name}: {clients} clients",
            value=len(together) / seconds,
            unit="queries/s",
            higher_is_better=True,
            baseline=1e3 / float(alone.mean()),
            floor=1e3 / float(np.median(alone)) * (os.cpu_count() or 1),
            details={
                "p50 ms": p50,
                "p95 ms": p95,
                "p99 ms": p99,
                "longest ms": float(together.max()),
                "alone: p50 ms": float(np.median(alone)),
            },
        ),
        Row(
            name=f"{name}: answers of the client with fewest, of a fair share",
            value=fewest,
            higher_is_better=True,
            needed=0.5,
        ),
    ]


def main(argv: list[str] | None = None) -> None:
    """Measure both ways to search."""
    parser = parser_of(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="keeps what is built")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kind", choices=KINDS, default="manifold")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--address", nargs="+", default=["none", "local"])
    args = parser.parse_args(argv)
    drawn = Drawn(args.folder / f"{args.kind}-{args.rows}", args.kind, args.rows, args.dim)
    database: Database = drawn.build(args.shards, IndexSettings(kind="tree_soar"))
    queries = drawn.draw_queries(args.queries)[QUERY_KINDS[0]]
    recorder = Recorder(
        "retrieval.clients",
        "Retrieval under load",
        f"k = {K}, {database.manifest.rows:,} {args.kind} rows of width {args.dim} in "
        f"{args.shards} shards, clients that ask one query at a time.",
        args.json,
        "the same with one client",
    )
    for address in args.address:
        with (
            connected(address) as cluster,
            cluster.retriever(database, RetrieverNeeds(effort=SearchEffort())) as retriever,
        ):
            name = "in one process" if address == "none" else "retriever actors on Ray"
            found = measure(retriever, queries, args.clients, args.seconds, name)
            recorder.add(name, found, {"seconds": args.seconds, "clients": args.clients})


if __name__ == "__main__":
    run(main)
