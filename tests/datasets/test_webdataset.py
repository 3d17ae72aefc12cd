from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_batch.datasets.webdataset import ImageTars
from rdm_batch.errors import ImageError
from rdm_batch.inputs.images import open_images


def _png(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _tar(path: Path, files: dict[str, bytes], kind: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


SAMPLES = {
    "00000.png": _png(0),
    "00000.txt": b" a caption \n",
    "00000.json": json.dumps({"url": "https://example.org/0.png", "width": 9}).encode(),
    "a/00001.json": json.dumps({"caption": "another", "url": None}).encode(),
    "a/00001.PNG": _png(1),
    "00002.txt": b"no image",
    "00003.png": _png(3),
}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_images_with_what_stands_beside_them(tmp_path: Path, kind: int) -> None:
    source = ImageTars([_tar(tmp_path / "x.tar", SAMPLES, kind)])
    items = [source[index] for index in range(len(source))]
    assert [item.item_id for item in items] == [
        *("https://example.org/0.png", "x.tar/a/00001", "x.tar/00003")
    ]
    assert [item.caption for item in items] == ["a caption", "another", None]
    assert source.size(1) == (8, 9)
    expected = np.asarray(Image.open(io.BytesIO(_png(3))))
    np.testing.assert_array_equal(items[2].image, expected)


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read(tmp_path: Path, kind: int) -> None:
    name = f"{'d' * 120}/{'n' * 140}é"
    (item,) = ImageTars([_tar(tmp_path / "x.tar", {f"{name}.png": _png(0)}, kind)])
    assert item.item_id == f"x.tar/{name}"


def test_a_folder_of_archives_is_one_collection(tmp_path: Path) -> None:
    for number in range(2):
        _tar(tmp_path / f"{number:05d}.tar", {"0.png": _png(number)})
    (tmp_path / "00000.parquet").write_bytes(b"what img2dataset knows")
    source, fingerprint = open_images(str(tmp_path))
    assert [item.item_id for item in source] == ["00000.tar/0", "00001.tar/0"]  # type: ignore[attr-defined]
    one, other = open_images(str(tmp_path / "00001.tar"))
    assert len(one) == 1
    assert other != fingerprint


def test_links_folders_and_devices_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(_png(0))
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f"{ord(kind)}.png")
            member.type, member.linkname = kind, str(tmp_path / "secret.png")
            archive.addfile(member)
    with pytest.raises(ImageError, match=r"x\.tar: no images"):
        ImageTars([tmp_path / "x.tar"])


@pytest.mark.parametrize("cut", [0, 100, 512, 700, -1024])
def test_a_half_written_archive_is_refused(tmp_path: Path, cut: int) -> None:
    path = _tar(tmp_path / "x.tar", SAMPLES)
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[:cut] if cut >= 0 else content)
    with pytest.raises(ImageError, match=r"a whole \.tar archive"):
        ImageTars([path])


def test_a_size_beyond_the_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    member = tarfile.TarInfo("0.png")
    member.size = 1 << 50
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(ImageError, match="ends early"):
        ImageTars([path])


def test_a_damaged_image_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    source = ImageTars([_tar(tmp_path / "x.tar", {"0.png": b"nothing", "1.png": _png(0)})])
    with pytest.raises(ImageError, match=r"x\.tar: 0: not a readable image"):
        _ = source[0]
    assert source[1].image.shape == (8, 9, 3)
