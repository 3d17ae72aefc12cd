"""What users write and name: YAML, manifests, prompts, pictures, tables of pictures."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image, PngImagePlugin

from rdm_batch.datasets.decode import decode_image, read_size
from rdm_batch.datasets.parquet import ImageParquet
from rdm_batch.errors import RdmBatchError, SampleSetError
from rdm_batch.generation.plan import describe_plan
from rdm_batch.inputs.prompts import read_lines
from rdm_batch.reports.run_report import load_report
from rdm_batch.retrieval.database import parse_manifest as parse_database
from rdm_batch.retrieval.tables import read_counts, read_embeddings, read_thumbnails
from rdm_batch.specs.load import load_job
from rdm_batch.specs.training import load_training
from rdm_batch.storage.manifest import (
    Manifest,
    SampleSetHeader,
    ShardEntry,
    Success,
    parse_manifest,
)
from rdm_batch.storage.object_store import open_store
from rdm_batch.storage.png import decode_png, encode_png
from rdm_batch.storage.reading import iter_shard
from rdm_batch.storage.table import make_table, table_bytes
from tests.fuzz.target import Target

_ROOT = Path(__file__).parents[3]


def _yaml_files(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((_ROOT / folder).rglob("*.yaml"))]


def _jobs() -> list[bytes]:
    return [text for text in _yaml_files("jobs") if b"conditioning" in text]


def _trainings() -> list[bytes]:
    found = [text for text in _yaml_files("rdm_batch/assets") if b"train:" in text]
    clip = {"train": "clip", "name": "a", "images": "shapes:captions:9"}
    optimization = {"num_steps": 5, "batch_size": 2, "learning_rate": 0.1}
    return [*found, yaml.safe_dump({**clip, "optimization": optimization}).encode()]


_YAML_TOKENS = (
    *(b"!!int ", b"!!float ", b"!!bool ", b"!!timestamp ", b"!!binary ", b"!!set ", b"!!omap "),
    *(b"!!pairs ", b"!!str ", b"!!null ", b"!!map ", b"!!seq ", b"&a ", b"*a", b"<<: *a\n", b"? "),
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b"- ",
        b": ",
        b"| \n",
        b"> \n",
        b"'",
        b'"',
        b"\n",
        b"---\n",
        b"...\n",
    ),
    *(b"%YAML 1.1\n", b"2001-01-01", b"2024-13-45", b"1:59:59", b"0x1f", b"0o7", b".inf", b".nan"),
    *(b"1e400", b"~", b"yes", b"\\ud800", b"\\0", b"#", b"&a [*a]", b"&a {<<: *a}"),
)


def _yaml_of_pieces(rng: random.Random) -> bytes:
    words = (b"a", b"sampling", b"seed", b"1", b" ", b"  ", b"\n", b"\n  ", *_YAML_TOKENS)
    return b"".join(rng.choice(words) for _ in range(rng.randrange(1, 80)))


def _read_job(path: Path) -> None:
    describe_plan(load_job(path))


_HEADER = SampleSetHeader(
    spec={"sampling": {"seed": 1}},
    digest="0" * 64,
    seed=1,
    num_samples=6,
    shard_size=3,
    image_size=8,
)


def _rows(first: int = 0) -> bytes:
    pictures = [encode_png(_noise(first + n)) for n in range(3)]
    made = make_table(
        sample_indices=np.arange(first, first + 3),
        images=pictures,
        seed=1,
        query_ids=np.arange(3),
        neighbor_ids=np.arange(6).reshape(3, 2),
        neighbor_scores=np.ones((3, 2), np.float32),
        prompts=["a", "b", "c"],
    )
    return table_bytes(made)


def _noise(seed: int = 0, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _entry(data: bytes) -> ShardEntry:
    return ShardEntry(
        shard=0,
        first_index=0,
        num_rows=3,
        file="data/00000.parquet",
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
    )


def _manifests() -> list[bytes]:
    entry = _entry(b"")
    database = _ROOT / "rdm_batch/assets/shapes/database/database.json"
    found = [_HEADER.to_bytes(), entry.to_bytes(), Success.over([entry]).to_bytes()]
    if database.is_file():
        found.append(database.read_bytes())
    return found


def _read_manifest(path: Path) -> None:
    """Read a text as every kind of manifest there is; what one refuses the next may take."""
    data = path.read_bytes()

    def as_kind(kind: type[Manifest]) -> None:
        read = parse_manifest(kind, data, "x", SampleSetError)
        read.to_bytes()
        if isinstance(read, SampleSetHeader):
            _HEADER.changes_from(read)
            read.rows_of(read.num_shards - 1)

    kinds = (SampleSetHeader, ShardEntry, Success)
    _any_of(
        *(functools.partial(as_kind, kind) for kind in kinds),
        lambda: parse_database(data, "x"),
        lambda: load_report(data, "x"),
    )


def _any_of(*readers: Callable[[], object]) -> None:
    """Call every reader, and raise what one of them refused where none has read anything."""
    refused = []
    for read in readers:
        try:
            read()
        except RdmBatchError as error:
            refused.append(error)
    if len(refused) == len(readers):
        raise refused[0]


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@functools.cache
def _drawn() -> tuple[Image.Image, Image.Image, Image.Exif]:
    smooth = np.tile(np.arange(24, dtype=np.uint8)[:, None, None] * 9, (1, 31, 3))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    return Image.fromarray(_noise()), Image.fromarray(smooth), exif


def _pngs() -> list[bytes]:
    noise, smooth, exif = _drawn()
    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "b" * 99, zip=True)
    texts.add_itxt("c", "d" * 50, zip=True)
    return [
        encode_png(_noise()),
        _encode(smooth.convert("P"), "PNG", transparency=0),
        _encode(smooth.convert("LA"), "PNG"),
        _encode(smooth.convert("I;16"), "PNG"),
        _encode(smooth.convert("1"), "PNG"),
        _encode(smooth, "PNG", pnginfo=texts, exif=exif, icc_profile=b"x" * 200),
        _encode(noise, "PNG", save_all=True, append_images=[noise]),
    ]


def _jpegs() -> list[bytes]:
    noise, smooth, exif = _drawn()
    return [
        _encode(smooth, "JPEG", exif=exif),
        _encode(smooth.convert("L"), "JPEG"),
        _encode(smooth.convert("CMYK"), "JPEG"),
        _encode(smooth, "JPEG", progressive=True, icc_profile=b"y" * 300),
        _encode(noise, "JPEG", comment=b"x", restart_marker_blocks=1),
    ]


def _webps() -> list[bytes]:
    noise, smooth, exif = _drawn()
    small = smooth.resize(noise.size)
    return [
        _encode(smooth, "WEBP", exif=exif),
        _encode(smooth.convert("RGBA"), "WEBP", lossless=True),
        _encode(noise, "WEBP", save_all=True, append_images=[small]),
        _encode(noise, "WEBP", icc_profile=b"z" * 100),
    ]


def _with_checks(data: bytes) -> bytes:
    """Make the checks of a PNG's chunks fit, for what is in them to be looked at."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    fixed, place = bytearray(data), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(data):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(fixed)


def _read_picture(path: Path) -> None:
    """Decode a picture every way there is; its header must promise what is decoded."""
    data = path.read_bytes()
    with contextlib.suppress(RdmBatchError):
        decode_png(data)
    size = read_size(data, "x", max_pixels=4_000_000)
    image = decode_image(data, "x", max_pixels=4_000_000)
    assert image.shape[:2] == size, f"{size} in the header, {image.shape[:2]} decoded"


def _parquet(columns: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def _image_tables() -> list[bytes]:
    pictures = [encode_png(_noise(seed)) for seed in range(3)]
    rows = [{"bytes": picture, "path": None} for picture in pictures]
    delta = {"image": "DELTA_LENGTH_BYTE_ARRAY", "text": "DELTA_BYTE_ARRAY"}
    texts = {"image": pa.array(pictures), "text": ["a", None, "c"]}
    return [
        _parquet({"image": rows, "caption": ["a", "b", None]}),
        _parquet({"image": rows}, compression="none", row_group_size=2),
        _parquet({"image": pa.array(pictures, pa.large_binary()), "n": [[1], [], None]}),
        _parquet(texts, use_dictionary=False, column_encoding=delta),
        _parquet(texts, compression="zstd", data_page_version="2.0"),
        _parquet({"image": pa.array(pictures).dictionary_encode()}),
    ]


def _read_image_table(path: Path) -> None:
    source = ImageParquet(path, max_pixels=4_000_000)
    for index in range(min(len(source), 4)):
        source.size(index)
        _ = source[index]


def _read_shard(path: Path) -> None:
    """Read a file as the first shard of a set that names its digest."""
    stored = path.parent / "data" / "00000.parquet"
    stored.parent.mkdir(exist_ok=True)
    stored.unlink(missing_ok=True)
    stored.hardlink_to(path)
    store, entry = open_store(str(path.parent)), _entry(path.read_bytes())
    for batch in iter_shard(store, _HEADER, entry):
        for row in batch.to_pylist():
            decode_png(row["image"]["bytes"])


def _database_tables() -> list[bytes]:
    values = pa.array(np.random.default_rng(0).random(160, dtype=np.float32))
    embedding = pa.FixedSizeListArray.from_arrays(values, 8)
    pictures = pa.array([encode_png(_noise())] * 20, pa.binary())
    columns = {"row_id": range(20), "embedding": embedding, "png": pictures, "count": range(20)}
    return [_parquet(columns, compression=name) for name in ("zstd", "none")]


def _read_database_tables(path: Path) -> None:
    _any_of(
        lambda: read_embeddings(path, 20, 8, "float32"),
        lambda: read_thumbnails(path, np.array([0, 19])),
        lambda: read_counts(path),
    )


def _prompts() -> list[bytes]:
    return [b"a red circle\r\n\n  a blue square \n", "\ufeffé\u2028ü\x85\n".encode(), b"\n"]


_FOOTER_TOKENS = (b"PAR1", b"ARROW:schema", b"image", b"bytes", struct.pack("<I", 1 << 31))
_JPEG_TOKENS = (
    b"\xff\xda",
    b"\xff\xd8",
    b"\xff\xc0",
    b"\xff\xc2",
    b"\xff\xe1",
    b"Exif\0\0",
    b"MPF\0",
)
_PNG_TOKENS = (
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"zTXt",
    b"iCCP",
    b"eXIf",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"tRNS",
)
_WEBP_TOKENS = (b"VP8X", b"VP8L", b"VP8 ", b"ANIM", b"ANMF", b"ALPH", b"EXIF", b"ICCP", b"RIFF")
_JSON_TOKENS = (b"[" * 99, b'{"a":' * 99, b"1e999", b"\\ud800", b'"', b"null", b"format_version")

TARGETS = (
    Target("job", _jobs, _read_job, "job.yaml", tokens=_YAML_TOKENS, generate=_yaml_of_pieces),
    Target(
        "training",
        _trainings,
        lambda path: load_training(path, "clip"),
        "training.yaml",
        tokens=_YAML_TOKENS,
    ),
    Target("manifest", _manifests, _read_manifest, "manifest.json", tokens=_JSON_TOKENS),
    Target("png", _pngs, _read_picture, "a.png", wrap=_with_checks, tokens=_PNG_TOKENS),
    Target("jpeg", _jpegs, _read_picture, "a.jpg", tokens=_JPEG_TOKENS),
    Target("webp", _webps, _read_picture, "a.webp", tokens=_WEBP_TOKENS),
    Target("image table", _image_tables, _read_image_table, "a.parquet", tokens=_FOOTER_TOKENS),
    Target("shard", lambda: [_rows()], _read_shard, "a.parquet", tokens=_FOOTER_TOKENS),
    Target("database tables", _database_tables, _read_database_tables, "a.parquet"),
    Target("prompts", _prompts, lambda path: read_lines(str(path), "prompts_file"), "a.txt"),
)
