from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_batch.datasets.folder import ImageFolder
from rdm_batch.datasets.source import ImageSource
from rdm_batch.errors import ImageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ["b.png", "a.JPG", "Z.webp", "nested/deeper/c.jpeg", "nested/a.png", "a b.png"]
    for shade, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (shade * 40,) * 3).save(path)
    for name in ["notes.txt", ".hidden.png", ".cache/x.png", "nested/._a.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not an image")
    return tmp_path


def test_order_is_that_of_relative_paths(folder: Path) -> None:
    source = ImageFolder(folder)
    assert isinstance(source, ImageSource)
    names = ["Z.webp", "a b.png", "a.JPG", "b.png", "nested/a.png", "nested/deeper/c.jpeg"]
    assert [source[i].item_id for i in range(len(source))] == names
    assert [item.attributes for item in source][-2:] == [
        {"folder": "nested"},
        {"folder": "nested/deeper"},
    ]
    assert source[3].attributes == {}


def test_items_hold_the_pixels_of_their_file(folder: Path) -> None:
    source = ImageFolder(folder)
    np.testing.assert_array_equal(source[4].image, np.full((8, 8, 3), 160))


def test_a_damaged_file_is_named_when_asked_for(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    source = ImageFolder(folder)
    with pytest.raises(ImageError, match=r"b\.png: not a readable image"):
        source[3]
    assert source[4].item_id == "nested/a.png"
    (folder / "a.JPG").unlink()
    with pytest.raises(ImageError, match="there is no such file"):
        source[2]


def test_the_pixel_limit_applies(folder: Path) -> None:
    with pytest.raises(ImageError, match="at most 63 pixels"):
        ImageFolder(folder, max_pixels=63)[0]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no image files"):
        ImageFolder(tmp_path)
    with pytest.raises(ImageError, match="no such folder"):
        ImageFolder(tmp_path / "nowhere")


@pytest.mark.parametrize("index", [-1, 6])
def test_indices_outside_are_refused(folder: Path, index: int) -> None:
    with pytest.raises(IndexError):
        ImageFolder(folder)[index]
