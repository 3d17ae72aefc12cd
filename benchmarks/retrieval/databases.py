"""Build databases of made rows, shard by shard, to be measured by several benchmarks.

    python -m benchmarks.retrieval.databases FOLDER --kind manifold --rows 1000000 --shards 5

Inputs: none; rows are made (``rows.py``). What lies in FOLDER afterwards is a database as a build
makes it, without captions and thumbnails, with queries that are no rows, the scores of their exact
neighbors, and what every shard took. Started again it goes on with the first shard that is missing;
with more shards than before it adds them, and those that are there stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from benchmarks.recorder import run
from benchmarks.retrieval.rows import KINDS, Kind, Rows
from benchmarks.timing import once_with_cpu, peak_memory_bytes, reset_peak_memory
from rdm_batch.files import written_aside
from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.database import (
    MANIFEST_NAME,
    DatabaseManifest,
    DatabaseShard,
    EncoderRecord,
    SourceRecord,
    render_manifest,
)
from rdm_batch.retrieval.exact import ExactScan, recall_at_k
from rdm_batch.retrieval.rows import row_blocks
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.retrieval.tuning import moved
from rdm_batch.retrieval.writer import write_shard
from rdm_batch.specs.database import IndexSettings, Queries

K = 20
QUERY_KINDS: tuple[Queries, ...] = ("pictures", "texts")
Search = Callable[[Float32[np.ndarray, "n dim"]], Any]
_FIRST_SHARD_SEED, _QUERY_SEED, _MORE_SHARDS_SEED = 1, 2, 100
_READ_ROWS = 8_192


@dataclass(frozen=True)
class Asked:
    """Queries of one kind, and the scores of their exact neighbors."""

    kind: Queries
    queries: Float32[np.ndarray, "n dim"]
    exact: Float32[np.ndarray, "n k"]

    def recall(self, search: Search) -> float:
        """Judge a search of all queries at once, which gives scores."""
        return recall_at_k(search(self.queries), self.exact)


@dataclass(frozen=True)
class Drawn:
    """A database of made rows, at a size or on its way to it.

    Attributes:
        folder: Where it lies.
        kind: Distribution of the rows.
        rows: Rows of each shard.
        dim: Width of a row.
    """

    folder: Path
    kind: Kind
    rows: int
    dim: int = 512

    def build(self, shards: int, settings: IndexSettings) -> Database:
        """Build what is missing, and publish the manifest of the first shards.

        Args:
            shards: How many there shall be.
            settings: How they are indexed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in range(shards):
            if not self._record(number).exists():
                self._build_shard(number, settings)
        records = [
            DatabaseShard.model_validate(json.loads(self._record(number).read_text())["shard"])
            for number in range(shards)
        ]
        manifest = DatabaseManifest(
            rows=shards * self.rows,
            dim=self.dim,
            dtype="float16",
            encoder=EncoderRecord(name="none", digest=None),
            source=SourceRecord(description=f"{self.kind} rows", images=shards * self.rows),
            build={},
            shards=tuple(records),
        )
        with written_aside(self.folder / MANIFEST_NAME) as aside:
            aside.write_bytes(render_manifest(manifest.with_digest()))
        return Database.open(str(self.folder))

    def took(self, number: int) -> dict[str, float]:
        """Say what a shard took: seconds, of the clock and of processors, gigabytes at the peak."""
        taken: dict[str, float] = json.loads(self._record(number).read_text())["took"]
        return taken

    def asked(self, database: Database, queries: int) -> list[Asked]:
        """Draw queries that are no rows, and find their exact neighbors, once for all."""
        drawn = self.draw_queries(queries)
        path = self.folder / f"exact-{len(database.manifest.shards)}-{queries}.npz"
        if not path.exists():
            found = exact_neighbors(database, np.concatenate(list(drawn.values())), K)[1]
            with written_aside(path) as aside, aside.open("wb") as file:
                np.savez(file, pictures=found[:queries], texts=found[queries:])
        exact = np.load(path)
        return [Asked(kind, values, exact[kind]) for kind, values in drawn.items()]

    def draw_queries(self, queries: int) -> dict[Queries, Float32[np.ndarray, "n dim"]]:
        """Draw queries of both kinds: pictures that are no rows, and texts beside them."""
        pictures = Rows(self.kind, self.rows, self.dim).draw(queries, _QUERY_SEED)
        return dict(zip(QUERY_KINDS, (pictures, moved(pictures)), strict=True))

    def _build_shard(self, number: int, settings: IndexSettings) -> None:
        seed = _FIRST_SHARD_SEED if number == 0 else _MORE_SHARDS_SEED + number
        drawn = Rows(self.kind, self.rows, self.dim).draw(self.rows, seed).astype(np.float16)
        none: list[Any] = [None] * self.rows
        rows = ShardRows(number * self.rows, drawn, [""] * self.rows, none, none, None)
        reset_peak_memory()
        threads = usable_cores()
        seconds, cpu_s, shard = once_with_cpu(
            lambda: write_shard(self.folder, number, rows, settings, threads)
        )
        took = {
            "build s": seconds,
            "build cpu s": cpu_s,
            "peak GB": peak_memory_bytes() / 1e9,
            "threads": threads,
        }
        with written_aside(self._record(number)) as aside:
            aside.write_text(json.dumps({"shard": shard.model_dump(mode="json"), "took": took}))
        print(f"shard {number}: {seconds:,.0f} s", flush=True)

    def _record(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.json"


def usable_cores() -> int:
    """Count the cores this process may use: as many threads build an index."""
    return len(os.sched_getaffinity(0))


def exact_neighbors(
    database: Database, queries: Float32[np.ndarray, "n dim"], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find ids and scores of the exact neighbors in a database whose rows are mapped files."""
    scan = ExactScan(queries, k)
    for shard in database.manifest.shards:
        path = Path(database.uri) / shard.row_bytes.path
        with path.open("rb") as file:
            for start, block in row_blocks(
                file, shard, database.manifest, 0, shard.rows, _READ_ROWS, str(path)
            ):
                scan.add(block, shard.first_row + start)
    return scan.ids, scan.scores


def main(argv: list[str] | None = None) -> None:
    """Build a database, or what is missing of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="manifold")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of a shard")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--shards", type=int, default=1)
    args = parser.parse_args(argv)
    settings = IndexSettings(kind="tree_soar")
    drawn = Drawn(args.folder, args.kind, args.rows, args.dim)
    drawn.build(args.shards, settings)


if __name__ == "__main__":
    run(main)
