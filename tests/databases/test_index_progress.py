"""What is shown while shards are indexed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rdm_batch.databases.build import build_database
from rdm_batch.databases.index_progress import IndexProgress
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.index import learning_products
from rdm_batch.specs.database import DatabaseBuild, IndexSettings
from tests.fixtures.fake_encoder import FakeEncoder

TREE = IndexSettings(kind="tree_soar", leaves=4)


def test_a_build_says_what_it_does_to_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    begin = Progress.begin

    def told(self: Progress, name: str, *others: Any) -> Any:
        steps.append(name)
        return begin(self, name, *others)

    monkeypatch.setattr(Progress, "begin", told)
    request = DatabaseBuild(images="shapes:database:60", index=TREE, out=str(tmp_path / "db"))
    with Progress(Console(file=io.StringIO())) as progress:
        build_database(request, FakeEncoder, progress)
    assert [step for step in steps if step.startswith("shard")] == [
        "shard 0: learn leaves and codes (about 0:00)",
        "shard 0: tune for pictures",
        "shard 0: tune for texts",
    ]


def test_a_shard_that_takes_long_tells_how_long_and_how_far() -> None:
    now, file = [0.0], io.StringIO()
    progress = Progress(Console(file=file, width=200), clock=lambda: now[0])
    settings = IndexSettings(kind="tree_soar")
    shown = IndexProgress(progress, 2_000_000, settings, 1)

    def pass_by(seconds: float) -> None:
        now[0] += seconds
        for stage in progress._stages:
            stage.advance(0)

    for number in range(2):
        shown.begin(number, 1_000_000, 512)
        pass_by(60)
        shown.turn_to(number, "tune for pictures")
        pass_by(60)
        shown.done(number, 1_000_000)
    shown.finish()
    lines = file.getvalue().splitlines()
    (begun,) = [line for line in lines if line.endswith("1:00 so far") and "learn" in line][:1]
    assert begun.startswith("shard 0: learn leaves and codes (about ")
    assert "shard 1: tune for pictures  done in 1:00" in lines
    assert "index  1,000,000/2,000,000 rows  5,556/s  3:00 left" in lines
    assert lines[-1] == "index  2,000,000/2,000,000 rows  8,333/s  done in 4:00"


def test_what_learning_takes_is_counted() -> None:
    tree = IndexSettings(kind="tree_soar").resolve(1_000_000)
    # Six passes of 120,000 rows over 5,000 leaves, and every row looks for its two.
    assert learning_products(tree, 1_000_000, 512) == (6 * 120_000 + 2_000_000) * 5_000 * 512
    before = IndexSettings(kind="tree_ah").resolve(1_000_000)
    assert learning_products(before, 1_000_000, 512) == (12 * 250_000 + 1_000_000) * 1_000 * 512
