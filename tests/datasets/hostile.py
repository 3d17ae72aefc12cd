"""Pictures that claim, repeat or hide more than they are."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Make a chunk of a PNG, whose check fits."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """Make a PNG of gray pixels from its header and the chunks given."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")])


def zeros(num_bytes: int) -> bytes:
    """Compress so many zeros: a thousandth of them is left."""
    packer = zlib.compressobj(9)
    block = b"\0" * (1 << 20)
    parts = [packer.compress(block) for _ in range(num_bytes >> 20)]
    return b"".join([*parts, packer.flush()])


def _pixels(width: int, height: int) -> bytes:
    return chunk(b"IDAT", zlib.compress((b"\0" + b"\x80" * width) * height))


def _many_scans() -> bytes:
    """Repeat the last scan of a progressive JPEG thousands of times."""
    plain = encode(Image.new("L", (6000, 6000)), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    end = plain.rindex(b"\xff\xd9")
    return plain[:last] + plain[last:end] * 3000 + b"\xff\xd9"


def _claimed_jpeg() -> bytes:
    data = bytearray(encode(Image.new("L", (8, 8)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def _claimed_webp(kind: str) -> bytes:
    options = {"lossless": kind == "VP8L"}
    picture = Image.new(
        "RGBA" if kind == "VP8X" else "RGB", (8, 8), (0, 0, 0, 90)[: 4 if kind == "VP8X" else 3]
    )
    data = bytearray(encode(picture, "WEBP", **options))
    if kind == "VP8X":
        data[24:30] = (0xFFFFFF).to_bytes(3, "little") * 2
    elif kind == "VP8L":
        data[21:25] = (0x3FFF | 0x3FFF << 14).to_bytes(4, "little")
    else:
        data[26:30] = struct.pack("<HH", 0x3FFF, 0x3FFF)
    assert data[12:16].decode().strip() == kind
    return bytes(data)


def bombs() -> dict[str, tuple[bytes, str]]:
    """Give every bomb with a part of what must be said of it."""
    bomb = zeros(300 << 20)
    text = b"Comment\0\0" + bomb
    return {
        "pixels.png": (png(30_000, 30_000, _pixels(8, 8)), "pixels"),
        "thin.png": (png(1_000_000, 1, _pixels(8, 8)), "one side at most 1000 times"),
        "late.png": (png(8, 8, chunk(b"IDAT", bomb)), ""),
        "ztxt.png": (png(8, 8, chunk(b"zTXt", text), _pixels(8, 8)), ""),
        "itxt.png": (png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + bomb), _pixels(8, 8)), ""),
        "iccp.png": (png(8, 8, chunk(b"iCCP", text), _pixels(8, 8)), ""),
        "late_ztxt.png": (png(8, 8, _pixels(8, 8), chunk(b"zTXt", text)), ""),
        "texts.png": (png(8, 8, *[chunk(b"zTXt", b"a\0\0" + zeros(1 << 20))] * 300), ""),
        "claim.jpg": (_claimed_jpeg(), "pixels"),
        "scans.jpg": (_many_scans(), "3,0"),
        "canvas.webp": (_claimed_webp("VP8X"), "16,777,216 x 16,777,216 pixels"),
        "lossless.webp": (_claimed_webp("VP8L"), "16,384 x 16,384 pixels"),
        "lossy.webp": (_claimed_webp("VP8"), "16,383 x 16,383 pixels"),
    }


def noise(side: int = 8) -> np.ndarray:
    """Draw a small picture."""
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
