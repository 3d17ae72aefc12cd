"""How fast images are encoded is told: images a second, and what held the workers up."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rdm_batch.databases import encode
from rdm_batch.databases.build import build_database
from rdm_batch.databases.change import add_images
from rdm_batch.reports.encoding import EncodingSpeed
from rdm_batch.reports.progress import Progress
from rdm_batch.specs.database import DatabaseAdd, DatabaseBuild
from tests.fixtures.fake_encoder import FakeEncoder


class SlowEncoder(FakeEncoder):
    """Take a tenth of a second for a batch, half of it on a GPU."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self.gpu_s = 0.0

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        time.sleep(0.1)
        self.gpu_s += 0.05
        return super().encode_images(images)


def build(out: Path, make_encoder: Any = SlowEncoder, **request: Any) -> list[EncodingSpeed]:
    told: list[EncodingSpeed] = []
    whole = {"images": "shapes:database:60", "out": str(out)} | request
    with Progress(Console(file=io.StringIO())) as progress:
        build_database(DatabaseBuild(**whole), make_encoder, progress, told.append)
    return told


def test_the_workers_time_is_divided_and_what_was_there_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "PART_IMAGES", 20)
    images, training = build(tmp_path, proposal_from="shapes:train:20")
    assert (images.name, images.images, images.workers) == ("encode images", 60, 1)
    assert (training.name, training.images) == ("encode training", 20)
    assert 0.3 <= images.encoder_s <= images.encoder_s + images.reading_s <= images.seconds
    assert images.images_per_s == images.images / images.seconds
    assert sum(images.shares.values()) == pytest.approx(1)
    assert images.gpu_s == pytest.approx(0.15)
    assert "60 images in 0:0" in str(images)
    assert "in the encoder" in str(images)
    assert build(tmp_path, proposal_from="shapes:train:20") == []


def test_added_images_are_told_of(tmp_path: Path) -> None:
    build(tmp_path, FakeEncoder)
    told: list[EncodingSpeed] = []
    with Progress(Console(file=io.StringIO())) as progress:
        request = DatabaseAdd(out=str(tmp_path), images="shapes:train:30")
        add_images(request, FakeEncoder, progress, told.append)
    assert [speed.images for speed in told] == [30]
    assert told[0].gpu_s is None


def test_shares_are_of_all_workers_and_all_gpus() -> None:
    speed = EncodingSpeed(
        name="encode images",
        images=1000,
        seconds=10,
        workers=4,
        device="cuda",
        encoder_s=20,
        reading_s=10,
        gpus=2,
        gpu_s=15,
    )
    assert speed.shares == {"encoder": 0.5, "reading": 0.25, "waiting": 0.25}
    assert speed.gpu_share == 0.75
    assert str(speed) == (
        "1,000 images in 0:10, 100 a second; of the workers' time 50.0 % in the encoder, "
        "25.0 % reading images, 25.0 % waiting; GPUs busy 75.0 %"
    )
