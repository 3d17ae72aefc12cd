"""Measure partitioned shards at width 512: recall, time of a query, resident memory.

    python -m benchmarks.retrieval.at_scale --rows 1000000 --folder FOLDER --json FILE

Inputs: none; rows are made (``rows.py``), clustered or on a curved manifold, and queries are drawn
that are no rows. Three indexes of the same rows are asked the same queries, one at a time: in
turns this program's, as a database build makes and tunes it, and raw ScaNN with the same tree and
codes, rescoring inside from bfloat16 rows, its leaves raised until it finds as much, with the
fewest candidates that do; then what this program built before (``tree_ah``: sqrt(rows) leaves, a
fifth searched). Each is loaded in a process of its own, whose memory without the page cache is
counted. Building takes most of the time: ``--build`` builds and ends, resumes where it was stopped,
and ``--folder`` keeps it.

Floor of a query: the centers (one byte a dimension), the codes of the leaves searched, twice for
each row lies in two, and the rescored rows, over the bandwidth of one thread. Predicted before the
first run, from 0.03 us a scanned row: 200,000 rows of the manifold, a recall of 0.95 with 2 to 4 %
of the leaves, 0.3 to 0.5 ms; 0.31 GB resident for a million rows (2 x 128 bytes of codes, 2 x 4 of
leaves, 5,000 centers); raw ScaNN as fast, and 0.26 GB + 1 GB of bfloat16 rows.
Predicted before the first run at a million, with leaves that are trained on fewer
rows and candidates that are scored once: 60 of 5,000 leaves for pictures, 90 for texts; 0.03 us a
code and two codes a row, 0.7 and 1.1 ms of codes, 0.15 ms of centers and 0.11 ms of rescoring, so
0.95 and 1.35 ms for both at a recall of 0.95; raw ScaNN 8 % less; clustered rows 0.35 ms with the
fewest leaves there are; the index of before 200 leaves of 1,000, 200,000 codes, 6 ms; a build of 7
minutes on one core, 6.5 GB at its peak.
Predicted before the first run with a kernel that scores: 0.10 ms above ScaNN's codes for 64
candidates, half of it the kernel and half calls around it, where it was 0.28; on a day as slow as
that of the last record 0.98 ms for pictures of the manifold, 1.04 for texts, 0.75 where 0.90 is
enough; clustered 0.68; 1.0 to 1.1 times raw ScaNN, whose rescoring takes as long.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Details, Row
from benchmarks.retrieval.databases import Asked, Drawn, Search, usable_cores
from benchmarks.retrieval.raw_scann import equal_recall, rescored_scores, write_raw_index
from benchmarks.retrieval.rows import KINDS
from benchmarks.retrieval.search import memory_bandwidth, scanned_bytes
from benchmarks.timing import once, once_with_cpu
from rdm_batch.files import written_aside
from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.database import TunedSearch
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.embeddings import unit_rows
from rdm_batch.retrieval.index import build_index, load_index, save_index
from rdm_batch.retrieval.residency import anonymous_bytes
from rdm_batch.retrieval.rows import shard_rows
from rdm_batch.retrieval.shard import ShardSearcher, open_shard
from rdm_batch.retrieval.tuning import held_out, tune
from rdm_batch.specs.database import IndexSettings, Queries

K = 20
_NEEDED = {"pictures": 0.95, "texts": 0.90}
"""Recall that is asked for of each kind of query; the search is tuned to 0.95 for both."""
_IN_A_ROW = 25
"""Queries that one index is asked before the next."""
THIS, BEFORE = IndexSettings(kind="tree_soar"), IndexSettings(kind="tree_ah")
_MOST = {"reorder": THIS.reorder}


def prepare(drawn: Drawn) -> Database:
    """Make rows and every index, or what is missing of them."""
    database = drawn.build(1, THIS)
    (shard,) = database.manifest.shards
    rows = shard_rows(drawn.folder, shard, database.manifest)
    took = _took(drawn.folder)
    if "raw" not in took:
        # Nothing is trained: the same tree and codes, and ScaNN's own copy of the rows.
        write_raw_index(drawn.folder / "index/shard-00000", rows, drawn.folder / "raw")
        _tell(drawn.folder, took | {"raw": 0.0})
        took = _took(drawn.folder)
    if "before" not in took:
        _, cpu_s, before = once_with_cpu(
            lambda: build_index(rows, BEFORE, drawn.kind, usable_cores())
        )
        save_index(before, drawn.folder / "before")
        _tell(drawn.folder, took | {"before": cpu_s})
    path = drawn.folder / "texts.json"
    if not path.exists():
        index = opened(drawn.folder, "this", SearchEffort())._index
        index = index.searching(shard.index.model_copy(update={"leaves_to_search": None} | _MOST))
        texts = held_out(rows, None)[1]
        found = tune(index, rows, texts, _NEEDED["texts"])
        with written_aside(path) as aside:
            aside.write_text(found.model_dump_json())
    return database


def efforts(folder: Path, kind: Queries) -> dict[str, SearchEffort]:
    """Say how hard queries of a kind are searched: as tuned, and for the recall needed of them."""
    found: dict[str, SearchEffort] = {kind: SearchEffort(queries=kind)}
    if kind == "texts":
        tuned = TunedSearch.model_validate_json((folder / "texts.json").read_bytes())
        least = SearchEffort(kind, tuned.leaves_to_search, tuned.reorder)
        found[f"texts, tuned to {_NEEDED['texts']}"] = least
    return found


def _took(folder: Path) -> dict[str, float]:
    """Give the seconds of processors that the other indexes took; the raw one is only copied."""
    path = folder / "took.json"
    told: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    return told


def _tell(folder: Path, took: dict[str, float]) -> None:
    with written_aside(folder / "took.json") as aside:
        aside.write_text(json.dumps(took))


def opened(folder: Path, name: str, effort: SearchEffort) -> Any:
    """Open one of the three indexes."""
    manifest = Database.open(str(folder)).manifest
    (shard,) = manifest.shards
    if name == "this":
        return open_shard(folder, 0, manifest=manifest, effort=effort)
    names = [path.name for path in (folder / name).iterdir()]
    if name == "before":
        index = load_index(folder / name, names, shard.rows, BEFORE.resolve(shard.rows))
        # As it was then: the rows in memory, not mapped.
        return ShardSearcher(np.array(shard_rows(folder, shard, manifest)), index)
    settings = effort.settings_of(shard).model_copy(update={"kind": "tree_ah"})
    return load_index(folder / name, names, shard.rows, settings)


def codes_of(folder: Path, effort: SearchEffort) -> Search:
    """Let ScaNN propose the same candidates by the same codes, and nobody rescore them."""
    (shard,) = Database.open(str(folder)).manifest.shards
    settings = effort.settings_of(shard)
    names = [Path(file.path).name for file in shard.index_files]
    index = load_index(folder / "index/shard-00000", names, shard.rows, settings)

    def search(queries: np.ndarray) -> Any:
        return index._searcher.search(
            unit_rows(queries)[0], settings.reorder, leaves_to_search=settings.leaves_to_search
        )

    return search


def read_through(rows: np.ndarray) -> None:
    """Bring mapped rows into the page cache, where a job has them after its first queries."""
    for start in range(0, len(rows), 1 << 16):
        rows[start : start + (1 << 16)].max()


def resident_gb(folder: Path, name: str) -> float:
    """Count what opening an index takes, in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.retrieval.at_scale", "--open", name, str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(drawn: Drawn, database: Database, queries: int, bandwidth: float) -> list[Row]:
    """Ask the indexes that were built the same queries, one at a time, in turns."""
    name = f"{drawn.rows:,} {drawn.kind} rows"
    took, indexes = drawn.took(0), ("this", "raw", "before")
    resident = {index: resident_gb(drawn.folder, index) / drawn.rows * 1e6 for index in indexes}
    found = [
        Row(
            name=f"{name}: resident, a million rows",
            value=resident["this"],
            unit="GB",
            baseline=resident["before"],
            needed=0.35,
            details={f"{index}: GB": size for index, size in resident.items()},
        ),
        Row(
            name=f"{name}: build, processor time",
            # Unknown of what was built before it was kept; the clock's is no measure where a
            # machine is shared.
            value=took.get("build cpu s"),
            unit="s",
            baseline=_took(drawn.folder)["before"],
            details={"peak GB": took["peak GB"]},
        ),
    ]
    for asked in drawn.asked(database, queries):
        for called, effort in efforts(drawn.folder, asked.kind).items():
            found += _measure_kind(drawn, database, asked, called, effort, bandwidth)
    return found


def _measure_kind(
    drawn: Drawn,
    database: Database,
    asked: Asked,
    called: str,
    effort: SearchEffort,
    bandwidth: float,
) -> list[Row]:
    (shard,) = database.manifest.shards
    settings = effort.settings_of(shard)
    rows = shard_rows(drawn.folder, shard, database.manifest)
    read_through(rows)
    this = opened(drawn.folder, "this", effort)
    recalls = {"this": asked.recall(lambda queries: this.search(queries, K).scores)}
    raw = equal_recall(opened(drawn.folder, "raw", effort), rows, asked, recalls["this"])
    recalls["raw"] = asked.recall(lambda queries: rescored_scores(raw, rows, queries, K))
    times = _in_turns(
        asked.queries,
        {
            "this": lambda queries: this.search(queries, K),
            "raw": lambda queries: raw._searcher.search(
                unit_rows(queries)[0], K, raw.settings.reorder, raw.settings.leaves_to_search
            ),
        },
    )
    times |= _in_turns(asked.queries, {"codes alone": codes_of(drawn.folder, effort)})
    before = opened(drawn.folder, "before", effort)
    recalls["before"] = asked.recall(lambda queries: before.search(queries, K).scores)
    times |= _in_turns(asked.queries, {"before": lambda queries: before.search(queries, K)})
    middle, last = (
        {
            name: float(np.percentile(found, at, method="inverted_cdf"))
            for name, found in times.items()
        }
        for at in (50, 99)
    )
    details: Details = {
        "this: leaves": f"{settings.leaves_to_search} of {settings.leaves}",
        "raw: leaves": raw.settings.leaves_to_search,
        "this: candidates": settings.reorder,
        "raw: candidates": raw.settings.reorder,
    }
    details |= {f"{index}: recall": value for index, value in recalls.items()}
    details |= {f"{index}: p50 ms": value for index, value in middle.items()}
    details |= {f"{index}: p99 ms": value for index, value in last.items()}
    name = f"{drawn.rows:,} {drawn.kind} rows: {called}"
    return [
        Row(
            name=f"{name}, p50 of one query",
            value=middle["this"],
            unit="ms",
            baseline=middle["raw"],
            floor=1e3 * scanned_bytes(settings, drawn.rows, drawn.dim, 1) / bandwidth,
            # Asked of texts where 0.90 is enough; more of their neighbors take longer.
            needed=None if called == "texts" else 1.0,
            needed_ratio=1 / 1.2,
            details=details,
        ),
        Row(
            name=f"{name}, recall",
            value=recalls["this"],
            higher_is_better=True,
            baseline=recalls["raw"],
            needed=_NEEDED[asked.kind],
        ),
    ]


def _in_turns(queries: np.ndarray, searches: dict[str, Search]) -> dict[str, np.ndarray]:
    """Give the milliseconds of every query but the first; each index is asked some in its turn.

    Jobs ask one query after the other, of one index. What is not compared is asked in turns of
    its own: the index of before reads a hundred megabytes a query, which drives the codes and
    rows of the others out of the caches, where a job has them.
    """
    times: dict[str, list[float]] = {name: [] for name in searches}
    for part in np.array_split(queries, max(1, len(queries) // _IN_A_ROW)):
        for name, search in searches.items():
            times[name] += [1e3 * once(lambda s=search, q=query: s(q[None]))[0] for query in part]
    return {name: np.array(found[1:]) for name, found in times.items()}


def main(argv: list[str] | None = None) -> None:
    """Measure each kind of rows asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--queries", type=int, default=500, help="of each kind")
    parser.add_argument("--folder", type=Path, help="keep what is built, and use it again")
    parser.add_argument("--build", action="store_true", help="build what is missing, end")
    parser.add_argument("--open", nargs=2, metavar=("INDEX", "FOLDER"), help="count memory, end")
    args = parser.parse_args(argv)
    if args.open:
        before = anonymous_bytes()
        kept = opened(Path(args.open[1]), args.open[0], SearchEffort())
        print((anonymous_bytes() - before) / 1e9)
        del kept
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        kinds = [
            Drawn(folder / f"{kind}-{args.rows}", kind, args.rows, args.dim) for kind in args.kind
        ]
        databases = [prepare(drawn) for drawn in kinds]
        if args.build:
            return
        recorder = Recorder(
            "retrieval.at_scale",
            "Partitioned shards at scale",
            f"k = {K}, float16 rows, one query at a time on one thread; baseline of the times: raw "
            "ScaNN with the same tree at equal recall, of memory and build: the index of before. "
            "Recall against exact search, on queries that are no rows.",
            args.json,
            "raw ScaNN at equal recall, in the same run",
        )
        bandwidth = memory_bandwidth()
        for drawn, database in zip(kinds, databases, strict=True):
            recorder.add(
                f"{args.rows:,} {drawn.kind} rows",
                measure(drawn, database, args.queries, bandwidth),
                {"dim": args.dim, "bandwidth GB/s": bandwidth / 1e9},
                [
                    "Mapped rows were in the page cache, as they are for a job after its first "
                    "queries; nothing is read from a disk while a query is timed."
                ],
            )


if __name__ == "__main__":
    run(main)
