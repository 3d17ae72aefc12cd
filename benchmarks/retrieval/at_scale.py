"""Measure partitioned shards at width 512: recall, time of a query, resident memory.

    python -m benchmarks.retrieval.at_scale --rows 200000 --json benchmarks/results/at_scale.json

Inputs: none; rows are made (``rows.py``), clustered or on a curved manifold, and queries are drawn
that are no rows. Three indexes of the same rows are built and asked the same queries, one at a
time, in turns: this program's, as a database build makes and tunes it; raw ScaNN with the same
tree, rescoring inside from bfloat16 rows, its leaves and candidates raised until it finds as much;
and what this program built before (``tree_ah``). Each is loaded in a process of its own, whose
memory without the page cache is counted.

Floor of a query: the centers (one byte a dimension), the codes of the leaves searched, twice for
each row lies in two, and the rescored rows, over the bandwidth of one thread. Predicted before the
first run, from 0.03 us a scanned row: 200,000 rows of the manifold, a recall of 0.95 with 2 to 4 %
of the leaves, 0.3 to 0.5 ms; 0.31 GB resident for a million rows (2 x 128 bytes of codes, 2 x 4 of
leaves, 5,000 centers); raw ScaNN as fast, and 0.26 GB + 1 GB of bfloat16 rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from benchmarks.retrieval.rows import KINDS, Rows
from benchmarks.retrieval.search import memory_bandwidth
from benchmarks.timing import once
from rdm_batch.retrieval.database import DatabaseManifest, EncoderRecord, SourceRecord
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.embeddings import score_candidates, unit_rows
from rdm_batch.retrieval.exact import exact_top_k, recall_at_k
from rdm_batch.retrieval.index import (
    ShardIndex,
    build_index,
    load_index,
    save_index,
    scann_searcher,
)
from rdm_batch.retrieval.residency import anonymous_bytes
from rdm_batch.retrieval.shard import ShardSearcher, open_shard
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.retrieval.tuning import moved
from rdm_batch.retrieval.writer import write_shard
from rdm_batch.specs.database import IndexSettings, Queries

K = 20
QUERY_KINDS: tuple[Queries, ...] = ("pictures", "texts")
BEFORE = IndexSettings(kind="tree_ah")
Search = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Asked:
    """Queries of one kind, and the scores of their exact neighbors."""

    kind: Queries
    queries: np.ndarray
    exact: np.ndarray

    def recall(self, search: Search) -> float:
        """Judge a search of all queries at once."""
        return recall_at_k(search(self.queries), self.exact)


def prepare(folder: Path, kind: str, rows: int, dim: int, queries: int) -> dict[str, float]:
    """Make rows, queries and their exact neighbors, and build every index; give the seconds."""
    drawn = Rows(kind, rows, dim)  # type: ignore[arg-type]
    embeddings = drawn.draw(rows, seed=1).astype(np.float16)
    pictures = drawn.draw(queries, seed=2)
    asked = {"pictures": pictures, "texts": moved(pictures)}
    for name, values in asked.items():
        exact = exact_top_k(embeddings, values, K)[1]
        np.savez(folder / f"{name}.npz", queries=values, exact=exact)
    none: list[Any] = [None] * rows
    table = ShardRows(0, embeddings, [""] * rows, none, none, None)
    took = {}
    took["this"], shard = once(lambda: write_shard(folder, 0, table, IndexSettings()))
    manifest = DatabaseManifest(
        rows=rows,
        dim=dim,
        dtype="float16",
        encoder=EncoderRecord(name="none", digest=None),
        source=SourceRecord(description=kind, images=rows),
        build={},
        shards=(shard,),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    took["raw"], raw = once(lambda: scann_searcher(unit_rows(embeddings), shard.index, 1, True))
    raw_folder = folder / "raw"
    raw_folder.mkdir()
    raw.serialize(str(raw_folder), relative_path=True)
    del raw
    took["before"], before = once(lambda: build_index(embeddings, BEFORE, kind))
    save_index(before, folder / "before")
    return took


def opened(folder: Path, name: str, effort: SearchEffort) -> ShardSearcher | ShardIndex:
    """Open one of the three indexes."""
    manifest = DatabaseManifest.model_validate_json((folder / "manifest.json").read_bytes())
    (shard,) = manifest.shards
    if name == "this":
        return open_shard(folder, 0, manifest=manifest, effort=effort)
    if name == "before":
        settings = BEFORE.resolve(shard.rows)
        names = [path.name for path in (folder / "before").iterdir()]
        index = load_index(folder / "before", names, shard.rows, settings)
        assert shard.rows_file is not None
        return ShardSearcher(np.load(folder / shard.rows_file.path), index)
    settings = effort.settings_of(shard).model_copy(update={"kind": "tree_ah"})
    names = [path.name for path in (folder / "raw").iterdir()]
    return load_index(folder / "raw", names, shard.rows, settings)


def scores_of(search: ShardSearcher | ShardIndex) -> Search:
    """Give the scores of the neighbors that an index finds, in one form for all."""
    if isinstance(search, ShardSearcher):
        return lambda queries: search.search(queries, K).scores
    searcher, settings = search._searcher, search.settings

    def raw(queries: np.ndarray) -> np.ndarray:
        unit = unit_rows(queries)
        found = [
            searcher.search(query, K, settings.reorder, settings.leaves_to_search)[1]
            for query in unit
        ]
        return np.array(found)

    return raw


def resident_gb(folder: Path, name: str) -> float:
    """Count what opening an index takes, in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.retrieval.at_scale", "--open", name, str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def equal_recall(folder: Path, asked: Asked, ours: float) -> ShardIndex:
    """Raise the leaves and candidates of raw ScaNN until it finds as much."""
    effort = SearchEffort(queries=asked.kind)
    raw = opened(folder, "raw", effort)
    assert isinstance(raw, ShardIndex)
    settings = raw.settings
    while True:
        index = raw.searching(settings)
        found = asked.recall(lambda queries, index=index: _rounded(index, queries, folder))
        if found >= ours - 0.002 or settings.leaves_to_search == settings.leaves:
            return index
        leaves = min(settings.leaves or 1, round((settings.leaves_to_search or 1) * 1.15) + 1)
        settings = settings.model_copy(update={"leaves_to_search": leaves})


def _rounded(index: ShardIndex, queries: np.ndarray, folder: Path) -> np.ndarray:
    """Score what raw ScaNN finds exactly: its own scores are rounded."""
    manifest = DatabaseManifest.model_validate_json((folder / "manifest.json").read_bytes())
    assert manifest.shards[0].rows_file is not None
    rows = np.load(folder / manifest.shards[0].rows_file.path, mmap_mode="r")
    positions, _, valid = index.candidates(unit_rows(queries), K)
    scores = score_candidates(queries, rows, None, positions)
    return np.where(valid, scores, -np.inf)


def measure(folder: Path, took: dict[str, float], kind: str, bandwidth: float) -> list[Row]:
    """Ask all three indexes the same queries, one at a time, in turns."""
    manifest = DatabaseManifest.model_validate_json((folder / "manifest.json").read_bytes())
    (shard,) = manifest.shards
    name = f"{shard.rows:,} {kind} rows"
    resident = {index: resident_gb(folder, index) for index in ("this", "raw", "before")}
    found = [
        Row(
            name=f"{name}: resident, a million rows",
            value=resident["this"] / shard.rows * 1e6,
            unit="GB",
            baseline=resident["before"] / shard.rows * 1e6,
            needed=0.35,
            details={
                "raw ScaNN GB": resident["raw"] / shard.rows * 1e6,
                "build s": took["this"],
                "build s raw": took["raw"],
                "build s before": took["before"],
            },
        )
    ]
    for query_kind in QUERY_KINDS:
        stored = np.load(folder / f"{query_kind}.npz")
        asked = Asked(query_kind, stored["queries"], stored["exact"])
        effort = SearchEffort(queries=query_kind)
        this, before = opened(folder, "this", effort), opened(folder, "before", effort)
        ours, theirs = asked.recall(scores_of(this)), asked.recall(scores_of(before))
        raw = equal_recall(folder, asked, ours)
        raw_recall = asked.recall(lambda queries, raw=raw: _rounded(raw, queries, folder))
        searches = [scores_of(this), scores_of(raw), scores_of(before)]
        times = np.array(
            [
                [1e3 * once(lambda s=search, q=query: s(q[None]))[0] for search in searches]
                for query in asked.queries
            ]
        )[1:]
        middle = np.percentile(times, 50, axis=0, method="inverted_cdf")
        last = np.percentile(times, 99, axis=0, method="inverted_cdf")
        settings = effort.settings_of(shard)
        leaves, searched = settings.leaves or 1, settings.leaves_to_search or 1
        codes = 2 * shard.rows * searched / leaves * manifest.dim / 4
        read = leaves * manifest.dim + codes + settings.reorder * manifest.dim * 2
        found.append(
            Row(
                name=f"{name}: {query_kind}, p50 of one query",
                value=middle[0],
                unit="ms",
                baseline=middle[1],
                floor=1e3 * read / bandwidth,
                needed=1.0,
                needed_ratio=1 / 1.2,
                details={
                    "recall": ours,
                    "p99 ms": last[0],
                    "leaves": f"{searched} of {leaves}",
                    "reorder": settings.reorder,
                    "raw recall": raw_recall,
                    "raw p99 ms": last[1],
                    "raw leaves": raw.settings.leaves_to_search,
                    "before recall": theirs,
                    "before p50 ms": middle[2],
                    "before p99 ms": last[2],
                },
            )
        )
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure each kind of rows asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--queries", type=int, default=500, help="of each kind")
    parser.add_argument("--folder", type=Path, help="keep what is built, and use it again")
    parser.add_argument("--open", nargs=2, metavar=("INDEX", "FOLDER"), help="count memory, end")
    parser.add_argument("--prepare", nargs=2, metavar=("KIND", "FOLDER"), help="build, end")
    args = parser.parse_args(argv)
    if args.open:
        before = anonymous_bytes()
        kept = opened(Path(args.open[1]), args.open[0], SearchEffort())
        print((anonymous_bytes() - before) / 1e9)
        del kept
        return
    if args.prepare:
        kind, folder = args.prepare
        took = prepare(Path(folder), kind, args.rows, args.dim, args.queries)
        (Path(folder) / "took.json").write_text(json.dumps(took))
        return
    recorder = Recorder(
        "retrieval.at_scale",
        "Partitioned shards at scale",
        f"k = {K}, float16 rows, one query at a time on one thread; baseline of the times: raw "
        "ScaNN with the same tree at equal recall, of the memory: the index of before. Recall "
        "against exact search, on queries that are no rows.",
        args.json,
        "raw ScaNN at equal recall, in the same run",
    )
    bandwidth = memory_bandwidth()
    for kind in args.kind:
        with tempfile.TemporaryDirectory() as temporary:
            folder = str(args.folder / f"{kind}-{args.rows}") if args.folder else temporary
            Path(folder).mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "benchmarks.retrieval.at_scale"]
            command += ["--prepare", kind, folder, "--rows", str(args.rows)]
            command += ["--dim", str(args.dim), "--queries", str(args.queries)]
            if not (Path(folder) / "took.json").exists():
                subprocess.run(command, check=True)
            took = json.loads((Path(folder) / "took.json").read_text())
            recorder.add(
                f"{args.rows:,} {kind} rows",
                measure(Path(folder), took, kind, bandwidth),
                {"dim": args.dim, "bandwidth GB/s": bandwidth / 1e9},
            )


if __name__ == "__main__":
    run(main)
