"""Databases encoded by Ray actors on two nodes."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from rdm_batch.databases import encode as encode_images
from rdm_batch.databases import proposal_counts
from rdm_batch.databases.build import build_database
from rdm_batch.errors import ClusterError, ImageError
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval import streaming
from rdm_batch.specs.database import DatabaseBuild, EncodeSettings, IndexSettings
from tests.fixtures.fake_encoder import FakeEncoder, MortalEncoder
from tests.ray_nodes import TwoNodes


def build(
    out: Path, make_encoder: Callable[[str], FakeEncoder] = FakeEncoder, **request: Any
) -> dict[str, bytes]:
    with Progress(Console(file=io.StringIO())) as progress:
        build_database(DatabaseBuild(out=str(out), **request), make_encoder, progress)
    files = [path for path in out.rglob("*") if path.is_file()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_workers_build_the_database_one_process_builds(
    two_nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_images, "PART_IMAGES", 20)
    monkeypatch.setattr(proposal_counts, "BLOCK_IMAGES", 15)
    request = {"images": "shapes:database:130", "shards": 2, "proposal_from": "shapes:train:50"}
    here = build(tmp_path / "here", **request)
    there = build(tmp_path / "there", **request, workers=2, address=two_nodes.address)
    assert here == there


def test_workers_count_exactly_what_one_process_counts(
    two_nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposal_counts, "GROUP_IMAGES", 20)
    monkeypatch.setattr(streaming, "BLOCK_ROWS", 25)
    request = {"images": "shapes:database:60", "shards": 2, "index": IndexSettings(kind="none")}
    request |= {"proposal_from": "shapes:train:30", "proposal_engine": "exact"}
    here = build(tmp_path / "here", **request)
    there = build(tmp_path / "there", **request, workers=2, address=two_nodes.address)
    assert "proposal.parquet" in here
    assert here == there


def test_killed_encoders_are_brought_back_and_cost_nothing_but_time(
    two_nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_images, "PART_IMAGES", 20)
    request = {"images": "shapes:database:130", "shards": 2}
    undisturbed = build(tmp_path / "undisturbed", **request)
    lives = tmp_path / "lives"
    lives.mkdir()
    for number in range(3):
        (lives / f"{number}").touch()
    there = {"workers": 2, "address": two_nodes.address}
    disturbed = build(tmp_path / "disturbed", partial(MortalEncoder, lives), **request, **there)
    assert list(lives.iterdir()) == []
    assert disturbed == undisturbed


def test_failures_of_workers_are_reported_as_their_own(two_nodes: TwoNodes, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/good.png")
    (tmp_path / "photos/damaged.png").write_bytes(b"nothing")
    request = {"images": str(tmp_path / "photos"), "address": two_nodes.address}
    with pytest.raises(ImageError, match=r"damaged\.png: not a readable image"):
        build(tmp_path / "db", **request, workers=2, encode=EncodeSettings(strict=True))
    with pytest.raises(ClusterError, match="2 CPUs for 1000 workers"):
        build(tmp_path / "db", **request, workers=1000)
    assert not (tmp_path / "db/database.json").exists()
