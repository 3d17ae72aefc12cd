from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from rdm_batch.errors import InvalidJobError
from rdm_batch.generation.plan import ShardPlan, ShardRange, describe_plan, plan_shards
from rdm_batch.specs.load import parse_job
from tests.job_kit import write_job
from tests.worlds import World


@pytest.mark.parametrize(
    ("num_samples", "shard_size", "sizes"),
    [(24, 4, [4] * 6), (25, 4, [4] * 6 + [1]), (3, 4, [3]), (1, 1, [1]), (8, 8, [8])],
)
def test_shards_cover_every_sample_once_in_order(
    world: World, num_samples: int, shard_size: int, sizes: list[int]
) -> None:
    document = world.job(sampling__num_samples=num_samples, output__shard_size=shard_size)
    shards = plan_shards(parse_job(document, "job"))
    assert [shard.num_samples for shard in shards] == sizes
    assert [shard.index for shard in shards] == list(range(len(sizes)))
    assert [int(i) for shard in shards for i in shard.indices] == list(range(num_samples))


@pytest.mark.parametrize(
    ("batch_size", "batches"),
    [(3, [[8, 9, 10], [11]]), (4, [[8, 9, 10, 11]]), (9, [[8, 9, 10, 11]])],
)
def test_batches_split_a_shard_from_its_start(batch_size: int, batches: list[list[int]]) -> None:
    shard = ShardRange(2, 8, 12)
    assert [batch.tolist() for batch in shard.batches(batch_size)] == batches


def test_a_billion_samples_are_planned_without_a_list(world: World) -> None:
    document = world.job(
        sampling__num_samples=10**9, sampling__batch_size=7, output__shard_size=1000
    )
    tracemalloc.start()
    shards = plan_shards(parse_job(document, "job"))
    lines = describe_plan(parse_job(document, "job"))
    assert shards[10**6 - 1] == ShardRange(10**6 - 1, 10**9 - 1000, 10**9)
    assert tracemalloc.get_traced_memory()[1] < 10 * 1024**2
    tracemalloc.stop()
    assert "1,000,000,000 in 1,000,000 shards" in lines[0]
    assert "143,000,000 batches" in lines[1]


@pytest.mark.parametrize(("num_samples", "shard_size", "batch_size"), [(25, 4, 3), (24, 8, 8)])
def test_batches_are_counted_without_being_made(
    num_samples: int, shard_size: int, batch_size: int
) -> None:
    plan = ShardPlan(num_samples, shard_size)
    made = sum(len(shard.batches(batch_size)) for shard in plan)
    assert plan.num_batches(batch_size) == made


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"guidance_scale": 1.0}, "20 network evaluations a batch"),
        (
            {"guidance_scale": 2.0},
            "40 network evaluations a batch (20 steps, conditional and unconditional)",
        ),
        (
            {"guidance_scale": 2.0, "guidance_interval": [0.3, 5], "reuse_deep_features": 3},
            "at most 40 network evaluations a batch (20 steps, conditional and unconditional, "
            "guided where the noise level is 0.3 to 5, deep features of every 3 steps)",
        ),
        (
            {"guidance_scale": 1.0, "autoguidance": {"checkpoint": "weaker", "scale": 2.0}},
            "40 network evaluations a batch (20 steps, by the head and by a weaker one)",
        ),
    ],
)
def test_a_plan_says_how_often_networks_are_evaluated(
    world: World, settings: dict[str, Any], said: str
) -> None:
    document = world.job()
    document["sampling"] |= {"num_steps": 20, **settings}
    assert describe_plan(parse_job(document, "job"))[1].endswith(said)


def test_a_dry_run_of_a_billion_samples_is_short_and_small(world: World, tmp_path: Path) -> None:
    path = write_job(
        tmp_path / "job.yaml", world.job(sampling__num_samples=10**9, output__shard_size=1)
    )
    limited = """
import sys
from rdm_batch.regression.memory import peak_resident
from rdm_batch.run import main
import rdm_batch.generation.preflight
loaded = peak_resident()
status = main(sys.argv[1:])
print("MORE", round((peak_resident() - loaded) / 1e6))
"""
    run = subprocess.run(
        [sys.executable, "-c", limited, str(path), "--dry-run"],
        **{"capture_output": True, "text": True, "timeout": 60},
    )
    assert "1,000,000,000 of 1,000,000,000 shards are missing" in run.stdout, run
    assert int(run.stdout.rpartition("MORE ")[2]) < 200


def test_more_samples_than_were_ever_measured_are_refused(world: World) -> None:
    with pytest.raises(InvalidJobError, match="less than or equal to 1000000000"):
        parse_job(world.job(sampling__num_samples=10**9 + 1), "job")
