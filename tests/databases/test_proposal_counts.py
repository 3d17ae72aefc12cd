"""The proposal distribution: counted in blocks by any engine, resumed, judged, previewed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rdm_batch.cluster.streamed_search import BlockSearcher
from rdm_batch.databases import build as building
from rdm_batch.databases import proposal_counts
from rdm_batch.databases.build import build_database
from rdm_batch.databases.describe import describe_database
from rdm_batch.databases.proposal_counts import NeighborCounter
from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.errors import DatabaseError
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval import streaming
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.proposal import Proposal, count_neighbors, top_overlap, total_variation
from rdm_batch.specs.database import DatabaseBuild, IndexSettings
from tests.fixtures.fake_encoder import FakeEncoder

ROWS, TRAINING, K = 300, 150, 5
REQUEST: dict[str, Any] = {
    "images": f"shapes:database:{ROWS}",
    "shards": 2,
    "proposal_from": f"shapes:train:{TRAINING}",
    "proposal_k": K,
}
TREE = IndexSettings(kind="tree_soar", leaves=12, leaves_to_search=1, reorder=5)


def build(out: Path | str, **request: Any) -> DatabaseManifest:
    with Progress(Console(file=io.StringIO())) as progress:
        whole = REQUEST | {"out": str(out)} | request
        return build_database(DatabaseBuild(**whole), FakeEncoder, progress)


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def proposal_of(out: Path) -> Proposal:
    found = Database.open(str(out)).proposal()
    assert found is not None
    return found


def exact_counts(out: Path, chosen: Callable[[int], bool] = lambda _: True) -> Proposal:
    rows = open_database(out).fetch(np.arange(ROWS))
    images = [item.image for n, item in enumerate(ShapesSource("train", TRAINING)) if chosen(n)]
    return count_neighbors(exact_top_k(rows, FakeEncoder().encode_images(images), K)[0])


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposal_counts, "BLOCK_IMAGES", 40)
    monkeypatch.setattr(proposal_counts, "GROUP_IMAGES", 64)
    monkeypatch.setattr(streaming, "BLOCK_ROWS", 100)


@pytest.mark.parametrize("kind", ["brute_force", "none", "tree_soar"])
def test_exact_counts_are_those_of_exact_neighbors(tmp_path: Path, kind: Any) -> None:
    engine = "auto" if kind == "none" else "exact"
    settings = TREE if kind == "tree_soar" else IndexSettings(kind=kind)
    manifest = build(tmp_path, index=settings, proposal_engine=engine)
    found, expected = proposal_of(tmp_path), exact_counts(tmp_path)
    np.testing.assert_array_equal(found.row_ids, expected.row_ids)
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert manifest.counted is not None
    assert (manifest.counted.engine, manifest.counted.checked) == ("exact", 0)
    assert describe_database(manifest)["proposal"] == "5 neighbors of 150 images, by exact; exact"


def test_counts_of_an_index_say_how_far_they_are_from_exact_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = build(tmp_path / "db", index=TREE)
    found, exact = proposal_of(tmp_path / "db"), exact_counts(tmp_path / "db")
    record = manifest.counted
    assert record is not None
    # So few images are all of them judged.
    assert (record.engine, record.checked, record.images) == ("scann", TRAINING, TRAINING)
    assert record.total_variation == total_variation(found, exact) > 0
    assert record.overlaps == tuple((m, top_overlap(found, exact, m)) for m in (0.01, 0.1, 0.5))
    assert 0 < record.recall < 1
    assert f"recall {record.recall:.3f}" in describe_database(manifest)["proposal"]
    assert "against exact counts of 150 of them" in describe_database(manifest)["proposal"]
    # How it was counted is no content: what is stored has the digest it had before.
    assert manifest.model_copy(update={"counted": None}).content_digest() == manifest.digest
    monkeypatch.setattr(proposal_counts, "BLOCK_IMAGES", 150)
    assert build(tmp_path / "whole", index=TREE).digest == manifest.digest


def test_distances_between_counts_are_what_they_are_called() -> None:
    first = Proposal(np.array([7, 3]), np.array([3, 1]))
    second = Proposal(np.array([3, 9]), np.array([2, 2]))
    assert total_variation(first, second) == pytest.approx(0.75)
    assert total_variation(first, first) == 0
    assert top_overlap(first, second, 1.0) == 0.5
    assert top_overlap(first, second, 0.5) == 0


KILLED = """
import io, os, signal, sys
from rich.console import Console
from rdm_batch.cluster.streamed_search import _State
from rdm_batch.databases import proposal_counts
from rdm_batch.retrieval import streaming
from tests.databases.test_proposal_counts import build
proposal_counts.BLOCK_IMAGES, proposal_counts.GROUP_IMAGES = 40, 64
streaming.BLOCK_ROWS = 100
kept, left = proposal_counts._keep, [int(sys.argv[3])]
def keep(*arguments):
    kept(*arguments)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
added = _State.add
def add(*arguments):
    added(*arguments)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
kept_of = {"scann": (proposal_counts, "_keep", keep), "exact": (_State, "add", add)}
setattr(*kept_of[sys.argv[2]])
build(sys.argv[1], proposal_engine=sys.argv[2])
"""


@pytest.mark.parametrize("engine", ["scann", "exact"])
def test_kill_9_loses_no_finished_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    build(tmp_path / "whole", proposal_engine=engine)
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "db"), engine, "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (tmp_path / "db/database.json").exists()
    done: list[Any] = []
    if engine == "scann":
        monkeypatch.setattr(NeighborCounter, "count", watched(NeighborCounter.count, done, "first"))
    else:
        monkeypatch.setattr(BlockSearcher, "search", watched(BlockSearcher.search, done, "number"))
    build(tmp_path / "db", proposal_engine=engine)
    # Two of the four blocks of images were done; of three groups past four blocks of rows, two.
    assert len(done) == (2 if engine == "scann" else 10)
    assert contents(tmp_path / "db") == contents(tmp_path / "whole")


def watched(method: Callable[..., Any], done: list[Any], name: str) -> Callable[..., Any]:
    def call(self: Any, block: Any, *others: Any) -> Any:
        done.append(getattr(block, name))
        return method(self, block, *others)

    return call


def test_a_damaged_block_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(proposal_counts, "merge_counts", fail)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    block = tmp_path / ".build/counts/block-0000000040.parquet"
    block.write_bytes(block.read_bytes()[:-9])
    monkeypatch.undo()
    monkeypatch.setattr(proposal_counts, "BLOCK_IMAGES", 40)
    with pytest.raises(DatabaseError, match=r"block-0000000040\.parquet: damaged .*remove it"):
        build(tmp_path)


def test_a_preview_is_replaced_by_the_whole_and_nothing_else_is_touched(tmp_path: Path) -> None:
    direct = build(tmp_path / "direct")
    preview = build(tmp_path / "db", proposal_sample=0.1)
    assert preview.counted is not None
    assert (preview.counted.images, preview.counted.share) == (15, 0.1)
    assert proposal_of(tmp_path / "db").counts.sum() == 15 * K
    assert "a preview: 10.0 %" in describe_database(preview)["proposal"]
    before = contents(tmp_path / "db")
    assert build(tmp_path / "db", proposal_sample=0.1) == preview
    assert contents(tmp_path / "db") == before
    other = build(tmp_path / "db", proposal_sample=0.2)
    assert other.counted is not None
    assert other.counted.images == 30
    assert build(tmp_path / "db") == direct
    assert contents(tmp_path / "db") == contents(tmp_path / "direct")
    # What was counted as a whole stays.
    with pytest.raises(DatabaseError, match="proposal_k 5 instead of 4"):
        build(tmp_path / "db", proposal_k=4)


def test_a_database_without_a_distribution_is_given_one(tmp_path: Path) -> None:
    direct = build(tmp_path / "direct")
    build(tmp_path / "db", proposal_from=None)
    assert proposal_of(tmp_path / "direct") is not None
    assert build(tmp_path / "db") == direct


def test_rows_are_in_place_before_workers_elsewhere_search_them(
    moto_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "workers_elsewhere", lambda _: True)
    here = build(tmp_path / "db")
    assert build(moto_uri) == here
    found = Database.open(moto_uri).proposal()
    assert found is not None
    np.testing.assert_array_equal(found.counts, proposal_of(tmp_path / "db").counts)
