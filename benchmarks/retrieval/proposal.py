"""Measure p_D: the neighbors of a training set counted by index, and how far off that is.

    python -m benchmarks.retrieval.proposal --folder FOLDER --images 100000 --json FILE

Inputs: none; rows and a training set are made, and FOLDER keeps the database (``databases.py``).
All images are counted by index. On a sample both engines count, and three figures say how far they
are apart: recall, total variation of the two distributions, and how many of the rows that top-m
sampling keeps both keep.

Floor: the bytes the searches must read over the memory bandwidth of one thread. Predicted before
the first run: 0.8 ms an image on one thread, 80 s for 100,000; recall of 4 neighbors above 0.97
(the nearest are the easiest), a total variation of about as much as is missed, 0.03, and an overlap
of the top 1 % of 0.95; exact counting of 1.28 million images past 20 million rows 90 hours on one
core at 40 G multiply-adds/s, by index 1.28 million x 20 shards x 0.8 ms = 6 hours.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Details, Row
from benchmarks.retrieval.batch import search_by_index, search_exactly
from benchmarks.retrieval.databases import Drawn
from benchmarks.retrieval.rows import KINDS, Rows
from benchmarks.retrieval.search import BATCH, memory_bandwidth, product_speed, scanned_bytes
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.exact import recall_at_k
from rdm_batch.retrieval.proposal import count_neighbors, top_overlap, total_variation
from rdm_batch.specs.database import IndexSettings

_TRAINING_SEED = 6
_TOP_M = (0.01, 0.1)
_PAPER_IMAGES, _PAPER_ROWS = 1_281_167, 20_000_000


def main(argv: list[str] | None = None) -> None:
    """Count with both engines."""
    parser = parser_of(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="keeps what is built and found")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kind", choices=KINDS, default="manifold")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--sample", type=int, default=10_000, help="images counted exactly too")
    parser.add_argument("--k", type=int, default=4, help="neighbors of an image")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    drawn = Drawn(args.folder / f"{args.kind}-{args.rows}", args.kind, args.rows, args.dim)
    database = drawn.build(1, IndexSettings(kind="tree_soar"))
    images = Rows(args.kind, args.rows, args.dim).draw(args.images, _TRAINING_SEED)
    sample = images[: args.sample]
    recorder = Recorder(
        "retrieval.proposal",
        "Counting p_D",
        f"{args.k} neighbors of {args.images:,} images among {args.rows:,} {args.kind} rows of "
        f"width {args.dim}; compared with exact counts on {len(sample):,} of them.",
        args.json,
        "exact counting, reckoned from the sample",
    )
    speed, bandwidth = product_speed(args.dim), memory_bandwidth()
    kept = drawn.folder / f"proposal-{len(sample)}-{args.k}"
    block_s, exact = search_exactly(database, sample, args.k, kept)
    exact_s = sum(block_s)
    index_s, found = search_by_index(database, images, args.k, args.threads)
    counted, truth = count_neighbors(found.ids[: len(sample)]), count_neighbors(exact.ids)
    (shard,) = database.manifest.shards
    settings = SearchEffort().settings_of(shard)
    read = len(images) * scanned_bytes(settings, args.rows, args.dim, BATCH)
    details: Details = {
        "recall": recall_at_k(found.scores[: len(sample)], exact.scores),
        "total variation": total_variation(counted, truth),
    }
    for top_m in _TOP_M:
        details[f"overlap of top {top_m:g}"] = top_overlap(counted, truth, top_m)
    # As many shards as there are times these rows, each searched for every image.
    large_s = index_s / len(images) * _PAPER_IMAGES * _PAPER_ROWS / args.rows
    large_exact_s = exact_s / len(sample) / args.rows * _PAPER_IMAGES * _PAPER_ROWS
    large_floor = float(_PAPER_IMAGES) * _PAPER_ROWS * args.dim / speed
    recorder.add(
        f"{args.images:,} images, {args.rows:,} {args.kind} rows",
        [
            Row(
                name="by index",
                value=index_s,
                unit="s",
                baseline=exact_s * len(images) / len(sample),
                floor=read / bandwidth,
                details=details,
            ),
            Row(
                name=f"exactly, {len(sample):,} of them",
                value=exact_s,
                unit="s",
                floor=float(len(sample)) * args.rows * args.dim / speed,
                details={"rows with a count": len(np.unique(exact.ids))},
            ),
            Row(
                name=f"model: {_PAPER_IMAGES:,} images, {_PAPER_ROWS:,} rows, by index",
                value=large_s / 3600,
                unit="h",
                baseline=large_exact_s / 3600,
            ),
            Row(
                name=f"model: {_PAPER_IMAGES:,} images, {_PAPER_ROWS:,} rows, exactly",
                value=large_exact_s / 3600,
                unit="h",
                floor=large_floor / 3600,
            ),
        ],
        {
            "search threads": args.threads,
            "threads of matrix products": os.environ.get("OMP_NUM_THREADS", "all"),
            "matrix product G multiply-adds/s": speed / 1e9,
            "bandwidth GB/s": bandwidth / 1e9,
        },
    )


if __name__ == "__main__":
    run(main)
