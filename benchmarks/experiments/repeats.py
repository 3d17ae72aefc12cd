"""Measure what a speed does from one repeat to the next when nothing has changed.

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.experiments.repeats --part "repeats A" \
        --json benchmarks/results/nights.json

Two jobs, again and again, without Ray and on one thread: 128 samples of ``jobs/quickstart.yaml``,
not scored, and 16,384 samples of the head without a network in shards of 16, with 1,024 searches.
Then the searches of the quickstart alone, by a process that does nothing else: the latencies. What
the second job waited for its searches stands beside them. Before and after all that the floor is
taken. ``benchmarks.experiments.nights`` makes a year of nights from the rows. They are kept one by
one; a repeat that would not end within ``--seconds`` is not begun.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.pipeline.jobs import ROOT, null_job
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Details, Row
from rdm_batch.regression.floor import measure_floor
from rdm_batch.regression.interleave import run_searches, run_timed

QUICKSTART_SAMPLES = 128
SEARCHING_SAMPLES = 16_384
SEARCHES_OF = 16
SEARCHES = 2_000
"""Timed alone."""
FIGURES = {
    "images/s": "images/s",
    "start-up": "s",
    "CPU time": "s",
    "peak memory": "bytes",
    "bytes written": "bytes",
    "search p99": "s",
    "p50 of searches alone": "s",
    "p95 of searches alone": "s",
    "p99 of searches alone": "s",
    "pipeline images/s": "images/s",
    "floor": "op/s",
}
"""Units of what a repeat measures."""


def repeat(work: Path) -> Details:
    """Run both jobs once, and give their figures."""
    before = measure_floor()
    quickstart = ROOT / "jobs" / "quickstart.yaml"
    fewer = [f"sampling.num_samples={QUICKSTART_SAMPLES}"]
    drawn = run_timed(ROOT, quickstart, work / "quickstart", fewer)
    searching = null_job(SEARCHING_SAMPLES, work / "searching")
    searching["output"]["shard_size"] = SEARCHES_OF
    job = work / "searching.yaml"
    job.write_text(yaml.safe_dump(searching))
    searched = run_timed(ROOT, job, work / "searching")
    alone = run_searches(ROOT, quickstart, work / "alone", fewer, SEARCHES).latency
    after = measure_floor()
    assert searched.report.retrieval is not None
    return {
        "images/s": drawn.report.throughput.images_per_s,
        "start-up": drawn.report.throughput.start_up_s,
        "CPU time": drawn.cpu_s,
        "peak memory": drawn.peak_memory_bytes,
        "bytes written": drawn.report.sample_set.bytes_written,
        "search p99": searched.report.retrieval.per_batch.p99_s,
        "p50 of searches alone": alone.p50_s,
        "p95 of searches alone": alone.p95_s,
        "p99 of searches alone": alone.p99_s,
        "pipeline images/s": searched.report.throughput.images_per_s,
        "floor": (before + after) / 2,
        "load average": os.getloadavg()[0],
    }


def recorder_of(path: Path | None) -> Recorder:
    """Open the record that this module, ``pairs`` and ``nights`` write parts of."""
    return Recorder(
        "experiments.nights",
        "Simulated nights",
        "Whether the gates of a nightly find what has changed, and nothing else.",
        path,
    )


def main(argv: list[str] | None = None) -> None:
    """Repeat both jobs."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=330, help="begin no repeat after these")
    parser.add_argument("--part", default="repeats", help="its name in the record")
    args = parser.parse_args(argv)
    recorder = recorder_of(args.json)
    begin, took_s = time.perf_counter(), 0.0
    for number in range(args.repeats):
        if time.perf_counter() - begin + took_s > args.seconds:
            break
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="rdm_batch-repeats-") as name:
            details = repeat(Path(name))
        took_s = time.perf_counter() - started
        settings = {"units": FIGURES, "seconds a repeat": round(took_s, 1)}
        recorder.add(args.part, [Row(name=f"{number + 1}", details=details)], settings)


if __name__ == "__main__":
    run(main)
