"""From the entries of a finished set to what its report says about speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rdm_batch.reports.latency import Latencies
from rdm_batch.reports.run_report import HeadReport, HeadTimes, Throughput
from rdm_batch.storage.manifest import WARM_UP, Interval, Measured, ShardEntry

_OVERLAPPED = ("neighbors", "encode", "write")
"""What can hold a head up between two model runs, in the order it is blamed."""


@dataclass(frozen=True)
class MeasuredShard:
    """What a run knows about the speed of one of its shards."""

    num_rows: int
    num_bytes: int
    measured: Measured


def measured_in(run_id: str, entries: Sequence[ShardEntry]) -> list[MeasuredShard]:
    """Pick the shards that one run made."""
    return [
        MeasuredShard(entry.num_rows, entry.num_bytes, entry.measured)
        for entry in entries
        if entry.measured is not None and entry.measured.run == run_id
    ]


def latest_run(entries: Sequence[ShardEntry]) -> str | None:
    """Name the run that committed last; None where no entry says."""
    measured = [entry.measured for entry in entries if entry.measured is not None]
    return max(measured, key=lambda shard: shard.end).run if measured else None


def throughput(
    entries: Sequence[MeasuredShard],
    started: float | None,
    flops_per_image: float | None = None,
) -> Throughput:
    """Measure a run from the entries it made.

    Args:
        entries: Shards of one run; none when everything was there already.
        started: When the command started, seconds since the epoch. None where that is not
            known any more: then the run counts from its first shard.
        flops_per_image: Operations that drawing and decoding an image takes; None where they are
            not counted.
    """
    if not entries:
        return Throughput(images=0, start_up_s=0, generation_s=0)
    first = min(entry.measured.start for entry in entries)
    # Machines, and processes started before their clock was set, may disagree about the time.
    last = max(first, *(entry.measured.end for entry in entries))
    names = sorted({entry.measured.head for entry in entries})
    by_head = {name: [e for e in entries if e.measured.head == name] for name in names}
    return Throughput(
        images=sum(entry.num_rows for entry in entries),
        start_up_s=0.0 if started is None else max(0.0, first - started),
        warm_up_s=max(map(_warm_up_s, entries)),
        generation_s=last - first,
        flops_per_image=flops_per_image,
        heads=tuple(_head_report(name, mine, last) for name, mine in by_head.items()),
    )


def latencies(entries: Sequence[MeasuredShard]) -> Latencies | None:
    """Collect the raw retrieval latencies of a run; None when nothing was searched."""
    searches = [search for entry in entries for search in entry.measured.searches]
    if not searches:
        return None
    return Latencies(
        query_s=np.concatenate([np.full(count, seconds / count) for count, seconds in searches]),
        batch_s=np.array([seconds for _, seconds in searches]),
    )


def _head_report(name: str, entries: Sequence[MeasuredShard], run_end: float) -> HeadReport:
    start = min(run_end, *(entry.measured.start for entry in entries))
    return HeadReport(
        name=name,
        device=entries[0].measured.device,
        images=sum(entry.num_rows for entry in entries),
        wall_s=run_end - start,
        times=divide_time(entries, start, run_end),
        gpu_s=_gpu_s(entries),
        peak_flops_per_s=entries[0].measured.peak_flops_per_s,
    )


def _gpu_s(entries: Sequence[MeasuredShard]) -> float | None:
    """Sum up a head's time on its GPU; None where one of its shards was not made on one."""
    times = [entry.measured.gpu_s for entry in entries]
    known = [time for time in times if time is not None]
    return math.fsum(known) if len(known) == len(times) else None


def drawn_on_gpus(entries: Sequence[MeasuredShard]) -> bool:
    """Say whether any shard was."""
    return any(entry.measured.gpu_s is not None for entry in entries)


def divide_time(entries: Sequence[MeasuredShard], start: float, end: float) -> HeadTimes:
    """Divide a head's wall time by what it was doing or waiting for.

    The model is what a head is for: every second outside it is put down to the first
    activity that was going on at the time, and to idleness where there was none.

    Args:
        entries: The head's shards.
        start: Start of the wall time.
        end: Its end.
    """
    left = [(start, end)]
    seconds = {}
    for activity in ("model", *_OVERLAPPED):
        busy = sorted(entry.measured.intervals[activity] for entry in entries)
        before = _length(left)
        for interval in busy:
            left = _subtract(left, interval)
        seconds[activity] = before - _length(left)
    return HeadTimes.within(
        end - start,
        model_s=seconds["model"],
        neighbors_s=seconds["neighbors"],
        encoding_s=seconds["encode"],
        writing_s=seconds["write"],
    )


def _warm_up_s(entry: MeasuredShard) -> float:
    start, end = entry.measured.intervals.get(WARM_UP, (0.0, 0.0))
    return end - start


def _length(intervals: Sequence[Interval]) -> float:
    return math.fsum(end - start for start, end in intervals)


def _subtract(intervals: Sequence[Interval], taken: Interval) -> list[Interval]:
    if taken[1] <= taken[0]:  # the clock was set back meanwhile
        return list(intervals)
    kept = []
    for start, end in intervals:
        kept += [(start, min(end, taken[0])), (max(start, taken[1]), end)]
    return [(start, end) for start, end in kept if end > start]
