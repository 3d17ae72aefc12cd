from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rdm_batch.datasets.decode import decode_image, read_size
from rdm_batch.errors import ImageError


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 10, 255 - x * 6], axis=2).astype(np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})], ids=["png", "webp"]
)
def test_lossless_rgb_is_read_exactly(kind: str, options: dict[str, Any]) -> None:
    pixels = gradient()
    decoded = decode_image(encode(Image.fromarray(pixels), kind, **options), "a")
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_size_read_from_the_header_is_that_of_the_decoded_image(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(Image.fromarray(gradient()), "JPEG", exif=exif)
    assert read_size(data, "a") == decode_image(data, "a").shape[:2]
    with pytest.raises(ImageError, match="a: not a readable image"):
        read_size(b"no image", "a")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_modes_keep_their_colors(mode: str) -> None:
    original = Image.fromarray(gradient()).convert(mode)
    decoded = decode_image(encode(original, "JPEG", quality=98), "a")
    difference = np.abs(decoded.astype(int) - np.asarray(original.convert("RGB")).astype(int))
    # Smooth gradients at quality 98 come back within a few levels; inverted CMYK would not.
    assert difference.mean() < 4


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_bilevel_and_palette_become_rgb(mode: str) -> None:
    image = Image.fromarray(gradient()).convert(mode)
    np.testing.assert_array_equal(
        decode_image(encode(image), "a"), np.asarray(image.convert("RGB"))
    )


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 129, 32_768, 65_406, 65_535]], dtype=np.uint16)
    decoded = decode_image(encode(Image.fromarray(values)), "a")
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 128, 254, 255]
    assert (decoded == decoded[:, :, :1]).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_composited_on_white(kind: str) -> None:
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 3] = [0, 128, 255]
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    decoded = decode_image(encode(Image.fromarray(pixels), kind, **options), "a")
    assert decoded[0, :, 0].tolist() == [255, 127, 0]


def test_transparent_palette_and_gray_alpha_are_composited_on_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert decode_image(encode(palette, transparency=0), "a").tolist() == [
        [[255, 255, 255], [40, 50, 60]]
    ]
    gray = Image.new("LA", (1, 1), (0, 0))
    assert decode_image(encode(gray), "a").tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :16] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(decode_image(data, "a"), upright)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (3, 2)])
def test_any_size_is_read(size: tuple[int, int]) -> None:
    decoded = decode_image(encode(Image.new("RGB", size, (1, 2, 3))), "a")
    assert decoded.shape == (size[1], size[0], 3)
    assert (decoded == (1, 2, 3)).all()


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encode(frames[0], save_all=True, append_images=frames[1:])
    assert (decode_image(data, "a") == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_refused(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(ImageError, match="photo: not a readable image"):
        decode_image(data[: int(kept * len(data))], "photo")


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "EPS"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="not recognized"):
        decode_image(encode(Image.new("RGB", (4, 4)), kind), "a")


def test_images_beyond_the_pixel_limit_are_refused_before_decoding() -> None:
    data = encode(Image.new("L", (2000, 1000)))
    with pytest.raises(ImageError, match=r"2,000 x 1,000 pixels; needed at most 1,999,999"):
        decode_image(data, "a", max_pixels=1_999_999)
    assert decode_image(data, "a", max_pixels=2_000_000).shape == (1000, 2000, 3)


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_decompression_bombs_are_refused_by_default(side: int) -> None:
    header = bytearray(encode(Image.new("1", (8, 8))))
    header[16:24] = side.to_bytes(4, "big") * 2
    import zlib

    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(ImageError, match="pixels"):
        decode_image(bytes(header), "bomb")
