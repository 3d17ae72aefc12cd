"""Databases that keep the pixels of their rows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rdm_batch.databases.build import build_database
from rdm_batch.databases.change import add_images
from rdm_batch.databases.describe import check_database, describe_database
from rdm_batch.datasets.fit import fit_image
from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.errors import DatabaseError
from rdm_batch.inputs.databases import Database
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.specs.database import DatabaseAdd, DatabaseBuild, EncodeSettings
from rdm_batch.specs.image_resize import ImageResize
from tests.fixtures.fake_encoder import FakeEncoder

SOURCE = "shapes:database:30"


def _quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


def _build(out: Path, images: str = SOURCE, **encode: Any) -> DatabaseManifest:
    request = DatabaseBuild(images=images, out=str(out), shards=2, encode=EncodeSettings(**encode))
    with _quiet() as progress:
        return build_database(request, FakeEncoder, progress)


def test_pixels_are_read_back_by_row(tmp_path: Path) -> None:
    manifest = _build(tmp_path / "db", store_images=32)
    source = ShapesSource("database", 30)
    ids = np.array([29, 3, 14, 3, 0])
    kept = Database.open(str(tmp_path / "db")).images(ids)
    for row, image in zip(ids.tolist(), kept, strict=True):
        assert np.array_equal(image, source[row].image)
    assert "pixels of every row, 32 x 32" in describe_database(manifest)["pictures"]
    with _quiet() as progress:
        assert check_database(str(tmp_path / "db"), progress) == []
    shard = manifest.shards[0]
    assert shard.images in shard.files()
    assert shard.images not in shard.searched_files()


def test_pixels_are_brought_to_one_size(tmp_path: Path) -> None:
    _build(tmp_path / "db", store_images=16, thumbnail_size=0, patches=2)
    (row,) = Database.open(str(tmp_path / "db")).images(np.array([0]))
    assert row.shape == (16, 16, 3)
    _build(tmp_path / "whole", store_images=16)
    (row,) = Database.open(str(tmp_path / "whole")).images(np.array([7]))
    image = ShapesSource("database", 30)[7].image
    assert np.array_equal(row, fit_image(image, ImageResize(size=16)))


def test_what_is_added_keeps_its_pixels_too(tmp_path: Path) -> None:
    _build(tmp_path / "db", store_images=32)
    request = DatabaseAdd(images="shapes:reference:5", out=str(tmp_path / "db"))
    with _quiet() as progress:
        manifest = add_images(request, FakeEncoder, progress)
    assert manifest.rows == 35
    first, last = Database.open(str(tmp_path / "db")).images(np.array([0, 34]))
    assert np.array_equal(first, ShapesSource("database", 30)[0].image)
    assert np.array_equal(last, ShapesSource("reference", 5)[4].image)


def test_a_database_without_pixels_says_so_and_stays_what_it_was(tmp_path: Path) -> None:
    manifest = _build(tmp_path / "db")
    assert "store_images" not in manifest.build
    assert "images" not in manifest.shards[0].model_dump()
    assert describe_database(manifest)["pictures"].endswith("pixels are not kept")
    with pytest.raises(DatabaseError, match=r"does not keep the pixels .*--store-images SIZE"):
        Database.open(str(tmp_path / "db")).images(np.array([0]))


def test_rows_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    _build(tmp_path / "db", store_images=32)
    with pytest.raises(DatabaseError, match="row id 30"):
        Database.open(str(tmp_path / "db")).images(np.array([30]))
