from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from rdm_batch.errors import SampleSetError
from rdm_batch.storage.png import decode_png, encode_png, png_size


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (32, 32), (3, 300)])
@pytest.mark.parametrize("content", ["noise", "flat", "gradient"])
def test_another_decoder_reads_the_same_pixels(shape: tuple[int, int], content: str) -> None:
    height, width = shape
    image = {
        "noise": np.random.default_rng(0).integers(0, 256, (height, width, 3)),
        "flat": np.full((height, width, 3), 200),
        "gradient": np.indices((height, width, 3)).sum(axis=0) * 37 % 256,
    }[content].astype(np.uint8)
    data = encode_png(image)
    with Image.open(io.BytesIO(data)) as opened:
        opened.verify()
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), image)
    np.testing.assert_array_equal(decode_png(data), image)
    assert png_size(data) == shape


def test_the_same_pixels_give_the_same_bytes_whatever_their_layout() -> None:
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert encode_png(image) == encode_png(np.asfortranarray(image))
    assert encode_png(image) == encode_png(np.tile(image, (1, 2, 1))[:, :16])


@pytest.mark.parametrize("data", [b"", b"GIF89a" + b"\0" * 30, b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_png_is_refused(data: bytes) -> None:
    with pytest.raises(SampleSetError, match="not a PNG"):
        decode_png(data)
    with pytest.raises(SampleSetError, match="not a PNG"):
        png_size(data)


def test_a_cut_png_is_refused() -> None:
    data = encode_png(np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    with pytest.raises(SampleSetError, match="not a PNG"):
        decode_png(data[: len(data) // 2])
