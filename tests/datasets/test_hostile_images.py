"""Pictures and folders that were made to harm: one error each, in little time and memory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from rdm_batch.datasets.decode import decode_image, read_size
from rdm_batch.datasets.folder import ImageFolder
from rdm_batch.errors import ImageError
from rdm_batch.inputs.images import open_images
from tests.datasets.hostile import bombs, chunk, encode, noise, png

LOOK = """
import json, sys, time
from pathlib import Path
from rdm_batch.datasets.decode import decode_image, read_size
from rdm_batch.errors import RdmBatchError
from rdm_batch.regression.memory import peak_resident
from rdm_batch.storage.png import decode_png

before, found = peak_resident(), {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    data, said, start = path.read_bytes(), [], time.process_time()
    readers = [decode_image, read_size] + ([decode_png] if path.suffix == ".png" else [])
    for reader in readers:
        try:
            said.append("read: %s" % (reader(data, "x"),))
        except RdmBatchError as error:
            said.append(str(error))
    found[path.name] = said, time.process_time() - start
print(json.dumps([found, (peak_resident() - before) / 1e6]))
"""


def test_bombs_take_neither_time_nor_memory(tmp_path: Path) -> None:
    made = bombs()
    for name, (data, _) in made.items():
        (tmp_path / name).write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    found, megabytes = json.loads(run.stdout)
    assert found.keys() == made.keys()
    for name, (said, seconds) in found.items():
        assert made[name][1] in said[0], (name, said)
        assert max(map(len, said)) < 2_000
        assert seconds < 20, (name, seconds)
    # The files themselves have a few; none of what they stand for was made.
    assert megabytes < 200


def test_an_orientation_behind_the_pixels_is_seen_without_decoding_them() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + b"\x80" * 8) * 4))
    data = png(8, 4, pixels, chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    assert read_size(data, "x") == decode_image(data, "x").shape[:2] == (8, 4)


def test_the_size_of_a_file_is_read_without_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.fromarray(noise(400))))
    source = ImageFolder(tmp_path)
    with path.open("r+b") as file:
        file.truncate(1000)
    assert source.size(0) == (400, 400)
    with pytest.raises(ImageError, match="not a readable image"):
        source[0]


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere.png")


def _circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [_fifo, _socket, _device, _dangling, _circle])
@pytest.mark.parametrize("name", ["b.png", "b.parquet"])
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, name: str, make) -> None:
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(noise())))
    make(tmp_path / name)
    with pytest.raises(ImageError, match=rf"{name}: is (not a file|a link that leads to no file)"):
        open_images(str(tmp_path))


def test_links_to_files_are_images_and_links_to_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(encode(Image.fromarray(noise())))
    (tmp_path / "set" / "b.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "set" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set")
    assert ImageFolder(tmp_path / "set").names == ["b.png"]


def test_a_file_that_became_a_pipe_is_refused_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(noise())))
    source = ImageFolder(tmp_path)
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    for read in (source.__getitem__, source.size):
        with pytest.raises(ImageError, match="is a FIFO, not a file"):
            read(0)


def test_a_folder_of_other_things_is_left_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdm_batch.datasets.listing.MAX_OTHERS", 10)
    for number in range(12):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(ImageError, match="holds more than 10 files and folders"):
        open_images(str(tmp_path))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"")
    with pytest.raises(ImageError, match="has a name that is no text") as caught:
        open_images(str(tmp_path))
    str(caught.value).encode()


@pytest.mark.parametrize("location", ["shapes:train:²", "shapes:train:" + "9" * 5000])
def test_a_count_that_is_none_is_refused(location: str) -> None:
    with pytest.raises(ImageError, match="not a shapes source"):
        open_images(location)
