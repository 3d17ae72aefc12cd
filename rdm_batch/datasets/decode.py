"""Decode image files of any kind into RGB pixels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, cast

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from rdm_batch.errors import ImageError

MAX_PIXELS: Final = 89_478_485
"""Pixels an image may have unless told otherwise: Pillow's own threshold, 256 MB as RGB."""
MAX_ASPECT: Final = 1000
"""Longer side of an image over the shorter: networks bring the shorter to their own size."""
MAX_SCANNED_PIXELS: Final = 32 * MAX_PIXELS
"""Pixels all scans of a JPEG may go over; a progressive photograph has about ten scans."""
MAX_FILE_BYTES: Final = 512 << 20
"""Bytes an image file may have: an uncompressed one of ``MAX_PIXELS`` has half."""

# Only these decoders ever see a file: some of Pillow's others start programs.
_FORMATS = ("PNG", "JPEG", "WEBP")
# EXIF orientations that exchange height and width.
_TURNED = (5, 6, 7, 8)
_WEBP_HEADER_BYTES = 30
_PNG_SIGNATURE_BYTES = 8
_PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_JPEG_SCAN = b"\xff\xda"


def decode_image(
    data: bytes, where: str, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a PNG, JPEG or WebP file into 8-bit RGB.

    The EXIF orientation is applied; transparency is composited on white; gray, palette
    and CMYK are converted (CMYK by its plain formula: color profiles are not applied);
    16-bit gray is scaled to 8 bits. Of an animation the first frame is taken.

    Args:
        data: The file's content.
        where: Name used in messages.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        ImageError: The file is damaged, of another format, or too large.
    """
    with _readable(where, max_pixels):
        image = _open(io.BytesIO(data), where, max_pixels)
        _check_scans(data, image, where)
        return _to_rgb(image)


def read_size(
    file: bytes | io.BufferedIOBase, where: str, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Read height and width of an image as ``decode_image`` would give it, from its header alone.

    Args:
        file: The file's content, or the file, of which little more than the header is read.
        where: Name used in messages.
        max_pixels: Larger images are refused.

    Raises:
        ImageError: It is no image, or too large.
    """
    with _readable(where, max_pixels):
        stream = io.BytesIO(file) if isinstance(file, bytes) else file
        image = _open(stream, where, max_pixels)
        width, height = image.size
        # Pillow looks for the orientation of a PNG behind its pixels, which it decodes for that.
        known = image.format != "PNG" or "exif" in image.info or _has_late_metadata(stream)
        turned = known and image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
    return (width, height) if turned else (height, width)


def _open(file: io.BufferedIOBase, where: str, max_pixels: int) -> Image.Image:
    """Read the header of an image, and refuse one that would take too much to decode."""
    head = file.read(_WEBP_HEADER_BYTES)
    file.seek(0)
    # Pillow hands all of a WebP to its decoder, which makes room for the pixels, to learn its size.
    _check_size(_webp_size(head), where, max_pixels)
    image = Image.open(cast(BinaryIO, file), formats=_FORMATS)
    _check_size(image.size, where, max_pixels)
    return image


def _check_size(size: tuple[int, int] | None, where: str, max_pixels: int) -> None:
    if size is None:
        return
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            where,
            f"{width:,} x {height:,} pixels",
            f"at most {max_pixels:,} pixels",
            "scale it down, or raise the limit if you trust the file",
        )
    if max(size) > MAX_ASPECT * min(size):
        raise ImageError(
            where,
            f"{width:,} x {height:,} pixels",
            f"one side at most {MAX_ASPECT} times the other",
            "cut it: brought to the width of a network, its length would fill the memory",
        )


def _check_scans(data: bytes, image: Image.Image, where: str) -> None:
    """Refuse a JPEG of a few bytes that goes over millions of pixels hundreds of times."""
    scans = data.count(_JPEG_SCAN) if image.format in ("JPEG", "MPO") else 0
    if scans * image.width * image.height > MAX_SCANNED_PIXELS:
        raise ImageError(
            where,
            f"{scans:,} scans of {image.width:,} x {image.height:,} pixels",
            f"at most {MAX_SCANNED_PIXELS:,} pixels in all scans",
            "save it again",
        )


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Read width and height that the header of a WebP states; None of any other file."""
    if len(head) < _WEBP_HEADER_BYTES or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return (
        max(1, int.from_bytes(head[26:28], "little") & 0x3FFF),
        max(1, int.from_bytes(head[28:30], "little") & 0x3FFF),
    )


def _has_late_metadata(file: io.BufferedIOBase) -> bool:
    """Look whether a PNG has metadata behind its pixels, without decoding them."""
    back = file.tell()
    file.seek(_PNG_SIGNATURE_BYTES)
    seen_pixels = found = False
    while len(head := file.read(8)) == 8 and not found:
        seen_pixels |= head[4:] == b"IDAT"
        found = seen_pixels and head[4:] in _PNG_METADATA
        file.seek(int.from_bytes(head[:4], "big") + 4, io.SEEK_CUR)
    file.seek(back)
    return found


@contextmanager
def _readable(where: str, max_pixels: int) -> Iterator[None]:
    """Say of whatever a decoder raises that the image cannot be read."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of a large image; the limit here is ours, and notes about odd
            # metadata are no reason to disturb the user.
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError as problem:
        raise ImageError(where, str(problem), f"at most {max_pixels:,} pixels") from problem
    except Exception as problem:  # damaged bytes lead decoders to raise nearly anything
        reason = str(problem).replace(repr(problem), "") or type(problem).__name__
        if isinstance(problem, UnidentifiedImageError):
            reason = "not recognized"
        raise ImageError(
            where, f"not a readable image ({reason})", "PNG, JPEG or WebP"
        ) from problem


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65_535)
        gray = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        color = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", color.size, "white"), color)
    return np.asarray(image.convert("RGB"))
