"""Decode image files of any kind into RGB pixels."""

from __future__ import annotations

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from rdm_batch.errors import ImageError

MAX_PIXELS = 89_478_485
"""Pixels an image may have unless told otherwise: Pillow's own threshold, 256 MB as RGB."""

# Only these decoders ever see a file: some of Pillow's others start programs.
_FORMATS = ("PNG", "JPEG", "WEBP")
# EXIF orientations that exchange height and width.
_TURNED = (5, 6, 7, 8)


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
    try:
        with warnings.catch_warnings():
            # Pillow warns of a large image; the limit here is ours, and notes about odd
            # metadata are no reason to disturb the user.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.width * image.height > max_pixels:
                raise ImageError(
                    where,
                    f"{image.width:,} x {image.height:,} pixels",
                    f"at most {max_pixels:,} pixels",
                    "scale it down, or raise the limit if you trust the file",
                )
            return _to_rgb(image)
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


def read_size(data: bytes, where: str) -> tuple[int, int]:
    """Read height and width of an image as ``decode_image`` would give it, from its header alone.

    Raises:
        ImageError: It is no image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
    except (UnidentifiedImageError, OSError) as problem:
        raise ImageError(where, "not a readable image", "PNG, JPEG or WebP") from problem
    return (width, height) if turned else (height, width)


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
