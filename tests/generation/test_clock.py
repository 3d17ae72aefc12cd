"""A clock that is set while a job runs."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from rdm_batch.generation.job import run
from rdm_batch.generation.speed import MeasuredShard, throughput
from rdm_batch.specs.load import parse_job
from rdm_batch.storage.manifest import Measured
from tests.ray_kit import shard_digests
from tests.worlds import World


def test_a_clock_that_jumps_changes_nothing_and_fails_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = world.job(output__uri=str(tmp_path / "undisturbed"), evaluation=None)
    run(parse_job(undisturbed, "job"), "none")
    jumps = itertools.count(0, -3600)
    monkeypatch.setattr(time, "time", lambda: 1.8e9 + next(jumps))
    report = run(parse_job(world.job(evaluation=None), "job"), "none")
    out = Path(world.document["output"]["uri"])
    assert shard_digests(out) == shard_digests(tmp_path / "undisturbed")
    assert 0 < report.throughput.generation_s < 60
    assert all(stage.end_s >= stage.start_s for stage in report.start_up)


def test_machines_that_disagree_about_the_time_are_no_failure() -> None:
    def shard(head: str, start: float) -> MeasuredShard:
        intervals = {
            name: (start + 2 * place, start + 2 * place + (-9.0 if name == "write" else 1.0))
            for place, name in enumerate(("neighbors", "model", "encode", "write"))
        }
        return MeasuredShard(
            4, 100, Measured(run="r", head=head, device="cpu", intervals=intervals)
        )

    measured = throughput([shard("head-0", 1000.0), shard("head-1", 400.0)], 5000.0)
    assert measured.images == 8
    assert measured.start_up_s == 0
    assert all(head.wall_s >= 0 for head in measured.heads)
