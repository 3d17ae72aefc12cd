"""Samples are counted batch by batch, each once."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import rdm_batch
from rdm_batch.generation.counting import SampleCount
from rdm_batch.generation.plan import ShardRange
from rdm_batch.heads.drawing import Drawing
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.reports import progress as shown
from rdm_batch.reports.progress import Progress, Stage
from rdm_batch.storage.manifest import ShardEntry
from tests.job_kit import job_document

SHARDS = [ShardRange(1, 4, 8), ShardRange(2, 8, 12)]


def entry(shard: ShardRange) -> ShardEntry:
    return ShardEntry(
        shard=shard.index,
        first_index=shard.start,
        num_rows=shard.num_samples,
        file=f"data/{shard.index:05}.parquet",
        sha256="0" * 64,
        num_bytes=1,
    )


class TestCount:
    @pytest.fixture
    def stages(self, monkeypatch: pytest.MonkeyPatch) -> list[Stage]:
        found: list[Stage] = []
        stage = Progress.stage

        def noted(*arguments: Any, **named: Any) -> Stage:
            found.append(stage(*arguments, **named))
            return found[-1]

        monkeypatch.setattr(Progress, "stage", noted)
        return found

    def test_begins_with_the_first_head_and_holds_every_sample_once(
        self, stages: list[Stage]
    ) -> None:
        begun: list[None] = []
        with Progress(Console(file=io.StringIO())) as progress:
            count = SampleCount(progress, 12, 4, lambda: begun.append(None))
            assert stages == []
            count.drawn({})
            assert len(begun) == 1
            (stage,) = stages
            assert stage.done == 4
            count.drawn({1: 3, 2: 0})
            assert stage.done == 7
            count.drawn({2: 2})
            assert stage.done == 9
            count.committed(entry(SHARDS[0]))
            assert stage.done == 10
            # What a head said before its shard was committed may arrive after.
            count.drawn({1: 4, 2: 2})
            assert stage.done == 10
            # Another head begins the shard of one that was lost.
            count.drawn({2: 0})
            count.drawn({2: 1})
            assert stage.done == 10
            count.committed(entry(SHARDS[1]))
            assert stage.done == 12
            count.finish()
            assert stage.finished
            assert len(begun) == 1

    def test_may_begin_with_a_stored_shard_that_tells_no_rate(self, stages: list[Stage]) -> None:
        begun: list[None] = []
        with Progress(Console(file=io.StringIO())) as progress:
            count = SampleCount(progress, 12, 4, lambda: begun.append(None))
            count.committed(entry(SHARDS[1]))
            assert stages[0].done == 8
            assert stages[0].rate() is None
            assert len(begun) == 1


def test_a_run_is_named_and_counted_before_its_first_shard_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdm_batch.cluster.pool.POLL_S", 0.02)
    monkeypatch.setattr(shown, "_FIRST_INTERVAL_S", 0.0)
    monkeypatch.setattr(shown, "_LAST_INTERVAL_S", 0.0)
    monkeypatch.setattr(shown, "_TICK_S", 0.01)
    stream = io.StringIO()
    monkeypatch.setattr(shown, "Console", lambda **_: Console(file=stream, width=100))
    start, seen, drawn = RdmHead.start, threading.Event(), [0]

    def slow(self: RdmHead, *arguments: Any) -> Drawing:
        if drawn[0]:
            # The second batch is drawn when the first has been seen, long before any shard.
            for _ in range(1000):
                if "generate  3/24 samples" in stream.getvalue():
                    seen.set()
                    break
                threading.Event().wait(0.01)
        drawn[0] += 1
        return start(self, *arguments)

    monkeypatch.setattr(RdmHead, "start", slow)
    document = job_document(tmp_path)
    document["output"] = {"uri": str(tmp_path / "out"), "shard_size": 24}
    rdm_batch.run(rdm_batch.load_job(document), address="none")
    assert seen.is_set()
    assert "generate  24/24 samples" in stream.getvalue()
