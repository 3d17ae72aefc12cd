from __future__ import annotations

import pytest

from rdm_batch.generation.speed import (
    MeasuredShard,
    divide_time,
    latencies,
    measured_in,
    throughput,
)
from rdm_batch.storage.manifest import Interval, Measured, ShardEntry


def _shard(
    model: Interval,
    neighbors: Interval = (0, 0),
    encode: Interval = (0, 0),
    write: Interval = (0, 0),
    head: str = "head 0",
    searches: tuple[tuple[int, float], ...] = (),
    num_rows: int = 4,
) -> MeasuredShard:
    given = {"model": model, "neighbors": neighbors, "encode": encode, "write": write}
    intervals = {name: (float(start), float(end)) for name, (start, end) in given.items()}
    measured = Measured(run="run", head=head, device="cpu", intervals=intervals, searches=searches)
    return MeasuredShard(num_rows, 100, measured)


def _seconds(shards: list[MeasuredShard], start: float, end: float) -> list[float]:
    times = divide_time(shards, float(start), float(end))
    return pytest.approx(
        [times.model_s, times.neighbors_s, times.encoding_s, times.writing_s, times.idle_s]
    )


def test_activities_one_after_the_other_take_their_own_time() -> None:
    shard = _shard(neighbors=(10, 11), model=(11, 15), encode=(15, 15.5), write=(15.5, 17))
    assert _seconds([shard], 10, 17) == [4, 1, 0.5, 1.5, 0]


def test_what_happens_while_the_model_runs_costs_nothing() -> None:
    first = _shard(neighbors=(10, 11), model=(11, 15), encode=(15, 16), write=(16, 17))
    second = _shard(neighbors=(11, 12), model=(15, 19), encode=(19, 20), write=(20, 21))
    assert _seconds([first, second], 10, 21) == [8, 1, 1, 1, 0]


def test_a_second_is_counted_once_though_two_activities_fill_it() -> None:
    first = _shard(model=(0, 4), encode=(4, 6), write=(6, 6.5))
    second = _shard(neighbors=(3, 7), model=(7, 9), encode=(9, 9), write=(9, 9))
    assert _seconds([first, second], 0, 9) == [6, 3, 0, 0, 0]


def test_what_no_activity_explains_is_idleness() -> None:
    shard = _shard(neighbors=(1, 2), model=(4, 6), encode=(6, 7), write=(7, 8))
    assert _seconds([shard], 0, 10) == [2, 1, 1, 1, 5]


def test_only_what_lies_in_the_wall_time_counts() -> None:
    shard = _shard(neighbors=(0, 3), model=(3, 8), encode=(8, 9), write=(9, 12))
    assert _seconds([shard], 4, 7) == [3, 0, 0, 0, 0]


def test_what_a_head_took_to_compile_itself_is_start_up() -> None:
    shard = _shard(neighbors=(10, 11), model=(11, 14), encode=(14, 14), write=(14, 15))
    intervals = {**shard.measured.intervals, "warm-up": (5.0, 9.5)}
    warm = MeasuredShard(4, 100, shard.measured.model_copy(update={"intervals": intervals}))
    found = throughput([warm], started=4.0)
    assert (found.start_up_s, found.warm_up_s, found.generation_s) == (6, 4.5, 5)
    assert found.heads[0].wall_s == 5
    assert throughput([shard], started=4.0).warm_up_s == 0


def test_throughput_of_two_heads() -> None:
    shards = [
        _shard(neighbors=(10, 11), model=(11, 14), encode=(14, 14), write=(14, 15)),
        _shard(
            neighbors=(12, 13),
            model=(13, 18),
            encode=(18, 18),
            write=(18, 20),
            head="head 1",
            num_rows=6,
        ),
    ]
    found = throughput(shards, started=4.0)
    assert (found.images, found.start_up_s, found.generation_s) == (10, 6, 10)
    assert [head.name for head in found.heads] == ["head 0", "head 1"]
    assert [head.images for head in found.heads] == [4, 6]
    # The first head has nothing left to do while the second ends: that is idleness.
    assert [head.wall_s for head in found.heads] == [10, 8]
    assert [head.times.idle_s for head in found.heads] == pytest.approx([5, 0])


def test_a_run_that_made_nothing_has_no_throughput() -> None:
    found = throughput([], started=4.0)
    assert (found.images, found.generation_s, found.heads) == (0, 0, ())


def test_a_batch_s_seconds_are_shared_by_its_queries() -> None:
    shards = [
        _shard(model=(0, 1), searches=((4, 0.8),)),
        _shard(model=(1, 2)),
        _shard(model=(2, 3), searches=((1, 0.1), (2, 0.6))),
    ]
    found = latencies(shards)
    assert found is not None
    assert found.batch_s.tolist() == [0.8, 0.1, 0.6]
    assert found.query_s.tolist() == pytest.approx([0.2] * 4 + [0.1] + [0.3] * 2)


def test_there_are_no_latencies_where_nothing_was_searched() -> None:
    assert latencies([_shard(model=(0, 1))]) is None
    assert latencies([]) is None


def test_only_the_shards_of_one_run_are_measured() -> None:
    entries = [
        ShardEntry(
            shard=number,
            first_index=4 * number,
            num_rows=4,
            file=f"data/{number:05d}.parquet",
            sha256="0" * 64,
            num_bytes=number,
            measured=None
            if run is None
            else Measured(run=run, head="head 0", device="cpu", intervals={"model": (0, 1)}),
        )
        for number, run in enumerate(["old", "new", None, "new"])
    ]
    assert [shard.num_bytes for shard in measured_in("new", entries)] == [1, 3]


def _on_gpu(start: float, gpu_s: float | None, head: str, peak: float = 8e14) -> MeasuredShard:
    shard = _shard(model=(start, start + 10.0), head=head)
    settings = {"gpu_s": gpu_s, "peak_flops_per_s": None if gpu_s is None else peak}
    return MeasuredShard(4, 100, shard.measured.model_copy(update=settings))


def test_a_gpu_tells_how_long_it_drew_and_how_hard() -> None:
    shards = [
        _on_gpu(0, 9.0, "head 0"),
        _on_gpu(10, 10.0, "head 0"),
        _on_gpu(0, 5.0, "head 1", peak=4e14),
    ]
    found = throughput(shards, started=None, flops_per_image=1e14)
    assert [head.gpu_s for head in found.heads] == [19.0, 5.0]
    # Of 20 seconds each: the other head had nothing to do for half of them.
    assert found.gpu_share == 24 / 40
    assert found.flops_per_s == 12 * 1e14 / 40
    assert found.peak_share == pytest.approx(12 * 1e14 / (20 * 8e14 + 20 * 4e14))


def test_what_was_drawn_on_cpus_claims_no_gpu() -> None:
    found = throughput([_on_gpu(0, None, "head 0")], started=None)
    assert (found.gpu_share, found.flops_per_s, found.peak_share) == (None, None, None)
    # Nor does a head of which a part was.
    mixed = throughput([_on_gpu(0, 9.0, "head 0"), _on_gpu(10, None, "head 0")], None, 1e14)
    assert mixed.gpu_share is None
