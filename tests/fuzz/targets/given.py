"""What users give to build databases of and to be conditioned on: arrays, tables, archives."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdm_batch.datasets.vectors import VectorColumn
from rdm_batch.datasets.webdataset import ImageTars
from rdm_batch.inputs.prompts import read_prompts
from rdm_batch.inputs.queries import open_embeddings, open_rows
from rdm_batch.storage.png import encode_png
from tests.fuzz.target import Target


def _npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version, allow_pickle=False)
    return stream.getvalue()


def _arrays() -> list[bytes]:
    rows = np.random.default_rng(0).normal(size=(5, 4))
    return [
        _npy(rows.astype(np.float16)),
        _npy(rows.astype(">f4"), (2, 0)),
        _npy(np.stack([rows, rows]), (3, 0)),
        _npy(np.asfortranarray(rows)),
        _npy(np.arange(6, dtype=np.uint16)),
    ]


def _pictures() -> bytes:
    return encode_png(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def _tars() -> list[bytes]:
    found = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        files = {
            "0.png": _pictures(),
            "0.json": json.dumps({"caption": "a", "url": "b"}).encode(),
            f"{'d' * 110}/{'é' if kind != tarfile.USTAR_FORMAT else 'e'}.png": _pictures(),
            "1.txt": b"caption",
        }
        with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        found.append(stream.getvalue())
    return found


def _with_sums(data: bytes) -> bytes:
    """Make the sums of headers fit, block by block, for what is in them to be looked at."""
    fixed = bytearray(data)
    for start in range(0, len(fixed) - 511, 512):
        block = fixed[start : start + 512]
        if block[257:262] == b"ustar":
            total = sum(block) - sum(block[148:156]) + 256
            fixed[start + 148 : start + 156] = b"%06o\0 " % (total % 8**6)
    return bytes(fixed)


def _read_tar(path: Path) -> None:
    source = ImageTars([path], max_pixels=4_000_000)
    for index in range(min(len(source), 4)):
        source.size(index)
        _ = source[index]


def _vectors() -> list[bytes]:
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 4)
    found = []
    for column in (
        fixed,
        pa.array(rows.tolist()),
        pa.array(rows.tolist(), pa.large_list(pa.float32())),
    ):
        sink = io.BytesIO()
        pq.write_table(pa.table({"embedding": column}), sink, row_group_size=4)
        found.append(sink.getvalue())
    return found


def _read_vectors(path: Path) -> None:
    vectors = VectorColumn(path)
    for rows in vectors.batches():
        assert rows.ndim == 2
    vectors.read(1, 3)


def _prompt_tables() -> list[bytes]:
    sink = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a", "b"], "n": [1, None]}), sink)
    return [sink.getvalue()]


_SIZES = (b"\x80" + b"\0" * 7 + struct.pack(">I", 600), b"77777777777\0", b"00000000000\0")
_CSV = (b'prompt,a\n"x, y",1\nb,\n', b"prompt\na\n\nb\n", "\ufeffprompt;a\nä,b\n".encode())
_JSONL = (b'{"prompt": "a", "n": 1}\n{"prompt": "b", "n": null, "t": true}\n',)

TARGETS = (
    Target(
        "given embeddings",
        _arrays,
        lambda path: open_embeddings(str(path), None, "file"),
        "a.npy",
        tokens=(b"'shape': (", b"True", b"<f8", b"99999999", b"|O", b"L"),
    ),
    Target("given rows", _arrays, lambda path: open_rows(str(path), "rows_file"), "a.npy"),
    Target("row ids", lambda: [b"1 2\n2, 3\n"], lambda path: open_rows(str(path), "x"), "a.txt"),
    Target("vectors", _vectors, _read_vectors, "a.parquet"),
    Target("tar", _tars, _read_tar, "a.tar", wrap=_with_sums, tokens=_SIZES),
    *(
        Target(
            f"prompts {suffix}",
            lambda found=found: list(found),
            lambda path: read_prompts(str(path), "prompts_file"),
            f"a.{suffix}",
            tokens=(b'"', b"prompt", b",", b"{", b"\\ud800", b"1e999"),
        )
        for suffix, found in (("csv", _CSV), ("jsonl", _JSONL), ("parquet", _prompt_tables()))
    ),
)
