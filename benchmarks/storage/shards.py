"""What it costs to commit one shard, stage by stage, with the floor beside each number.

    python -m benchmarks.storage.shards --json benchmarks/results/storage.json

Inputs: photographs that come with scikit-image. Local disk always; OpenStack Swift over HTTP on
loopback when it is installed. Nothing is compared: every stage stands beside its own floor, what
it cannot do without, measured in the same run.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data as photographs

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from benchmarks.timing import best_time
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


def measure(count: int, size: int, places: dict[str, str], repeats: int) -> list[Row]:
    """Measure every stage of a shard of so many images."""
    images = photo_patches(count, size)
    encoders: dict[str, Callable[[np.ndarray], bytes]] = {
        "encode": encode_png,
        "encode, level 1": lambda image: pillow_png(image, 1),
        "encode, default": lambda image: pillow_png(image, 6),
    }
    rows: list[Row] = []

    def add(stage: str, taken_s: float, num_bytes: int, floor: str, floor_s: float) -> None:
        details = {"images/s": count / taken_s, "bytes": num_bytes, "floor is": floor}
        rows.append(
            Row(name=stage, value=taken_s * 1e3, unit="ms", floor=floor_s * 1e3, details=details)
        )

    filtered = [zlib.decompress(packed_rows(encode_png(image))) for image in images]
    pack_s = best_time(lambda: [run_lengths(rows) for rows in filtered], repeats)
    for stage, encode in encoders.items():
        encoded = [encode(image) for image in images]
        taken_s = best_time(lambda one=encode: [one(image) for image in images], repeats)  # type: ignore[misc]
        add(stage, taken_s, sum(map(len, encoded)), "zlib run lengths alone", pack_s)

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
    copy_s = best_time(lambda: bytearray(png_blob), repeats)
    taken_s = best_time(lambda: table_bytes(table), repeats)
    add("parquet", taken_s, len(content), f"copy {len(png_blob):,} PNG bytes", copy_s)

    header = SampleSetHeader(
        spec={}, digest="0" * 64, seed=0, num_samples=count, shard_size=count, image_size=size
    )
    for place, uri in places.items():
        put_s = best_time(writer(open_store(f"{uri}/floor{size}"), content), repeats)
        if place == "local":
            plain_s = best_time(plain_writer(Path(uri), content), repeats)
            add("two writes, local", put_s, len(content), "plain write and fsync", plain_s)
        # A shard is committed once: a set for every timing, the uncounted first included.
        sets = [
            SampleSet.create_or_resume(f"{uri}/{size}-{number}", header)
            for number in range(repeats + 1)
        ]
        fresh = iter(sets)
        taken_s = best_time(lambda sets=fresh: next(sets).commit_shard(0, table), repeats)  # type: ignore[misc]
        add(f"commit, {place}", taken_s, len(content), "its two writes", put_s)

    taken_s = best_time(lambda: [decode_png(png) for png in pngs], repeats)
    packed = [packed_rows(png) for png in pngs]
    inflate_s = best_time(lambda: [zlib.decompress(rows) for rows in packed], repeats)
    add("decode", taken_s, images.nbytes, "zlib inflate alone", inflate_s)
    return rows


def writer(store: Store, content: bytes) -> Callable[[], None]:
    """Write a table and its entry under new names, every time."""
    numbers = itertools.count()

    def write() -> None:
        number = next(numbers)
        store.write_bytes(f"{number}.parquet", content)
        store.write_bytes(f"{number}.json", b"0" * ENTRY_BYTES)

    return write


def plain_writer(folder: Path, content: bytes) -> Callable[[], None]:
    """Do the same with plain files."""
    numbers = itertools.count()

    def write() -> None:
        number = next(numbers)
        for name, data in ((f"{number}.a", content), (f"{number}.b", b"0" * ENTRY_BYTES)):
            with (folder / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    return write


def main(argv: list[str] | None = None) -> None:
    """Measure every size of shard in every place there is."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    recorder = Recorder(
        "storage.shards",
        "Committing a shard",
        "Stage by stage, the best of some repeats; floor: what the stage cannot do without.",
        args.json,
    )
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        places = {"local": str(folder / "local")}
        reason = why_not_swift(folder)
        (folder / "swift").mkdir()
        if not reason:
            server = stack.enter_context(run_swift(folder / "swift"))
            os.environ.update(server.environment)
            places["Swift"] = server.fresh_uri()
        notes = [f"Swift is not measured: {reason}"] if reason else []
        for count, size in CASES:
            rows = measure(count, size, places, args.repeats)
            recorder.add(
                f"{count} images of {size} x {size}", rows, {"repeats": args.repeats}, notes
            )


if __name__ == "__main__":
    run(main)
