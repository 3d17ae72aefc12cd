"""Where a database's images are encoded."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from rdm_batch.cluster.pool import ClusterResources, WorkerNeeds
from rdm_batch.databases import build as building
from rdm_batch.databases import encode as encoding
from rdm_batch.databases.encode import worker_needs
from rdm_batch.errors import ClusterError
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.specs.database import DatabaseBuild
from tests.fixtures.fake_encoder import FakeEncoder


def _build(out: Path, device: str, loaded: list[str]) -> DatabaseManifest:
    def make_encoder(device: str) -> FakeEncoder:
        loaded.append(device)
        return FakeEncoder()

    request = DatabaseBuild(images="shapes:database:300", out=str(out), device=device)
    with Progress(Console(file=io.StringIO())) as progress:
        return building.build_database(request, make_encoder, progress)


@pytest.mark.parametrize(
    ("device", "num_gpus", "workers", "expected"),
    [
        ("cpu", 4.0, 2, WorkerNeeds()),
        ("cuda", 2.0, 16, WorkerNeeds(num_gpus=0.125)),
        ("cuda", 1.0, 3, WorkerNeeds(num_gpus=0.3333)),
        ("cuda", 4.0, 2, WorkerNeeds(num_gpus=1.0)),
        # Not more than one, and whole ones where it is more.
        ("cuda", 3.0, 2, WorkerNeeds(num_gpus=1.0)),
    ],
)
def test_workers_share_the_gpus(
    device: str, num_gpus: float, workers: int, expected: WorkerNeeds
) -> None:
    assert worker_needs(device, ClusterResources(1, 16.0, num_gpus), workers) == expected


def test_without_a_gpu_images_are_encoded_on_the_cpu_and_a_gpu_is_refused(tmp_path: Path) -> None:
    loaded: list[str] = []
    _build(tmp_path / "auto", "auto", loaded)
    assert loaded == ["cpu"]
    with pytest.raises(ClusterError, match="--device cuda: there is no GPU"):
        _build(tmp_path / "cuda", "cuda", loaded)
    assert loaded == ["cpu"]


def test_a_gpu_that_is_there_encodes_in_larger_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("rdm_batch.cluster.local", "rdm_batch.databases.build"):
        monkeypatch.setattr(f"{module}.local_resources", lambda: ClusterResources(1, 2.0, 1.0))
    monkeypatch.setattr(building, "require_device", lambda device: device)
    batches: list[int] = []

    def encode(self: FakeEncoder, images: list[object]) -> object:
        batches.append(len(images))
        return embed(self, images)

    embed = FakeEncoder.encode_images
    monkeypatch.setattr(FakeEncoder, "encode_images", encode)
    loaded: list[str] = []
    here = {device: _build(tmp_path / device, device, loaded) for device in ("auto", "cpu")}
    assert loaded == ["cuda", "cpu"]
    # Parts of 256 and 44 images.
    assert batches == [256, 44, 64, 64, 64, 64, 44]
    # The device is no part of what a database is.
    assert here["auto"].build == here["cpu"].build
    assert encoding.PART_IMAGES == 256
