"""Encode and decode PNG, the lossless form in which samples are stored."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from rdm_batch.errors import SampleSetError

MAX_PIXELS: Final = 8192 * 8192
"""Pixels a stored sample may have."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Encode an RGB image; the same pixels give the same bytes.

    Level 1 with run lengths takes less time than zlib's own search for repeats, and fewer
    bytes: neighboring pixels of a picture are alike, its lines are not.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def decode_png(data: bytes, where: str = "image") -> UInt8[np.ndarray, "height width 3"]:
    """Decode a stored sample to RGB.

    Args:
        data: The stored bytes.
        where: What an error names.

    Raises:
        SampleSetError: When the bytes are no image, or one of more than ``MAX_PIXELS``.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                found = f"{image.width:,} x {image.height:,} pixels"
                raise SampleSetError(where, found, f"at most {MAX_PIXELS:,} pixels")
            return np.asarray(image.convert("RGB"))
    except SampleSetError:
        raise
    except Exception as problem:  # damaged bytes lead decoders to raise nearly anything
        reason = "not recognized" if isinstance(problem, UnidentifiedImageError) else problem
        raise SampleSetError(where, f"not a PNG that can be read ({reason})") from problem


def png_size(data: bytes) -> tuple[int, int]:
    """Read height and width from a PNG's header without decoding it.

    Raises:
        SampleSetError: When the bytes do not start like a PNG.
    """
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or len(data) < 24:
        raise SampleSetError("image", f"not a PNG (starts with {data[:8]!r})")
    width, height = struct.unpack(">II", data[16:24])
    return height, width
