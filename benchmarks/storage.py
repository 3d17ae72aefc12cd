"""What it costs to commit one shard, stage by stage, with the floor beside each number.

Run from the root of the repository: ``python -m benchmarks.storage [--repeats N] [--json FILE]``.
Local disk always; OpenStack Swift over HTTP on loopback when it is installed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data as photographs

from rdm_batch.storage.manifest import SampleSetHeader
from rdm_batch.storage.object_store import Store, open_store
from rdm_batch.storage.png import decode_png, encode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.table import make_table, table_bytes
from tests.stores import run_swift, why_not_swift

CASES = ((256, 32), (64, 256))
ENTRY_BYTES = 400


def photo_patches(count: int, size: int) -> np.ndarray:
    """Cut patches of photographs: pictures compress like pictures, noise does not."""
    pictures = [photographs.astronaut(), photographs.coffee(), photographs.chelsea()]
    draw = np.random.default_rng(0)
    patches = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (draw.integers(0, side - size + 1) for side in picture.shape[:2])
        patches.append(picture[top : top + size, left : left + size])
    return np.stack(patches)


def seconds(action: Callable[[int], object], repeats: int) -> float:
    """Best time of an action over some repeats, after one that does not count.

    The best and not the middle: what else the machine does only ever adds.
    """
    action(-1)
    times = []
    for repeat in range(repeats):
        begin = time.perf_counter()
        action(repeat)
        times.append(time.perf_counter() - begin)
    return min(times)


def pillow_png(image: np.ndarray, level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def packed_rows(png: bytes) -> bytes:
    """Join the compressed rows of a PNG: the content of its IDAT chunks."""
    parts, position = [], 8
    while position < len(png):
        length = int.from_bytes(png[position : position + 4], "big")
        if png[position + 4 : position + 8] == b"IDAT":
            parts.append(png[position + 8 : position + 8 + length])
        position += length + 12
    return b"".join(parts)


def run_lengths(rows: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return packer.compress(rows) + packer.flush()


def measure(count: int, size: int, places: dict[str, str], repeats: int) -> list[dict[str, Any]]:
    images = photo_patches(count, size)
    encoders: dict[str, Callable[[np.ndarray], bytes]] = {
        "encode": encode_png,
        "encode, level 1": lambda image: pillow_png(image, 1),
        "encode, default": lambda image: pillow_png(image, 6),
    }
    rows: list[dict[str, Any]] = []

    def add(stage: str, taken: float, num_bytes: int, floor: str, floor_s: float) -> None:
        rows.append(
            {
                "images": count,
                "size": size,
                "stage": stage,
                "ms": taken * 1e3,
                "images_per_s": count / taken,
                "bytes": num_bytes,
                "floor": floor,
                "floor_ms": floor_s * 1e3,
                "ratio": taken / floor_s,
            }
        )

    filtered = [zlib.decompress(packed_rows(encode_png(image))) for image in images]
    pack_s = seconds(lambda _: [run_lengths(rows) for rows in filtered], repeats)
    for stage, encode in encoders.items():
        encoded = [encode(image) for image in images]
        taken = seconds(lambda _, encode=encode: [encode(image) for image in images], repeats)  # type: ignore[misc]
        add(stage, taken, sum(map(len, encoded)), "zlib run lengths alone", pack_s)

    pngs = [encode_png(image) for image in images]
    png_blob = b"".join(pngs)
    table = make_table(
        sample_indices=np.arange(count),
        images=pngs,
        seed=0,
        query_ids=np.arange(count),
        neighbor_ids=np.zeros((count, 4), np.int64),
        neighbor_scores=np.zeros((count, 4), np.float32),
        sampler="ddim",
        num_steps=50,
        eta=0.0,
        guidance_scale=1.0,
    )
    content = table_bytes(table)
    copy_s = seconds(lambda _: bytearray(png_blob), repeats)
    taken = seconds(lambda _: table_bytes(table), repeats)
    add("parquet", taken, len(content), f"copy {len(png_blob):,} PNG bytes", copy_s)

    header = SampleSetHeader(
        spec={}, digest="0" * 64, seed=0, num_samples=count, shard_size=count, image_size=size
    )
    for place, uri in places.items():
        put_s = seconds(writer(open_store(f"{uri}/floor{size}"), content), repeats)
        if place == "local":
            plain_s = plain_write_s(Path(uri), content, repeats)
            add("two writes, local", put_s, len(content), "plain write and fsync", plain_s)
        sets = [
            SampleSet.create_or_resume(f"{uri}/{size}-{repeat}", header)
            for repeat in range(repeats + 1)
        ]
        taken = seconds(lambda repeat, sets=sets: sets[repeat].commit_shard(0, table), repeats)  # type: ignore[misc]
        add(f"commit, {place}", taken, len(content), "its two writes", put_s)

    taken = seconds(lambda _: [decode_png(png) for png in pngs], repeats)
    packed = [packed_rows(png) for png in pngs]
    inflate_s = seconds(lambda _: [zlib.decompress(rows) for rows in packed], repeats)
    add("decode", taken, images.nbytes, "zlib inflate alone", inflate_s)
    return rows


def writer(store: Store, content: bytes) -> Callable[[int], None]:
    def write(repeat: int) -> None:
        store.write_bytes(f"{repeat}.parquet", content)
        store.write_bytes(f"{repeat}.json", b"0" * ENTRY_BYTES)

    return write


def plain_write_s(folder: Path, content: bytes, repeats: int) -> float:
    def write(repeat: int) -> None:
        for name, data in ((f"{repeat}.a", content), (f"{repeat}.b", b"0" * ENTRY_BYTES)):
            with (folder / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    return seconds(write, repeats)


def show(rows: list[dict[str, Any]]) -> None:
    for count, size in CASES:
        table = Table(title=f"One shard of {count} images, {size} x {size}")
        for name in ("stage", "ms", "images/s", "bytes", "floor", "floor ms", "x floor"):
            table.add_column(name, justify="left" if name in ("stage", "floor") else "right")
        for row in rows:
            if row["size"] == size:
                table.add_row(
                    row["stage"],
                    f"{row['ms']:.2f}",
                    f"{row['images_per_s']:,.0f}",
                    f"{row['bytes']:,}",
                    row["floor"],
                    f"{row['floor_ms']:.3f}",
                    f"{row['ratio']:,.1f}",
                )
        Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reason = why_not_swift(folder)
        (folder / "swift").mkdir()
        if reason:
            print(f"Swift is not measured: {reason}")
            for case in CASES:
                rows += measure(*case, {"local": str(folder / "local")}, args.repeats)
        else:
            with run_swift(folder / "swift") as server:
                os.environ.update(server.environment)
                places = {"local": str(folder / "local"), "Swift": server.fresh_uri()}
                for case in CASES:
                    rows += measure(*case, places, args.repeats)
    show(rows)
    if args.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
