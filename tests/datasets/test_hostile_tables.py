"""Parquet tables that claim, nest or repeat more than they hold: one error each, in a child."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rdm_batch.datasets.parquet import ImageParquet
from rdm_batch.errors import ImageError
from tests.datasets.hostile import encode, noise

PICTURE = encode(Image.fromarray(noise()))
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(columns: dict[str, pa.Array], **options: object) -> bytes:
    """Write a table as parquet, with an Arrow schema of its own where one is given."""
    sink = io.BytesIO()
    made = pa.table(columns)
    forged = options.pop("forged", None)
    if isinstance(forged, pa.Schema):
        kept = base64.b64encode(forged.serialize().to_pybytes())
        made = made.replace_schema_metadata({b"ARROW:schema": kept})
        options["store_schema"] = False
    pq.write_table(made, sink, **options)
    return sink.getvalue()


def _size(value: int) -> bytes:
    shifts = range(0, max(value.bit_length(), 1), 7)
    low = bytes(value >> shift & 127 | 128 for shift in shifts)
    return low[:-1] + bytes([low[-1] & 127])


def _number(value: int) -> bytes:
    return _size(2 * value)


def footer(names: list[bytes], num_rows: int = 0) -> bytes:
    """Make a file of a footer alone, whose every group has one child: a tower.

    By hand, in Thrift's compact protocol: pyarrow writes no such file.
    """
    elements = [b"\x35\x00\x18" + _size(len(name)) + name + b"\x15\x02\x00" for name in names[:-1]]
    elements.append(b"\x15\x0c\x25\x00\x18" + _size(len(names[-1])) + names[-1] + b"\x00")
    listed = b"\xfc" + _size(len(elements)) + b"".join(elements)
    content = b"\x15\x02\x19" + listed + b"\x16" + _number(num_rows) + b"\x19\x0c\x00"
    return b"PAR1" + content + struct.pack("<I", len(content)) + b"PAR1"


def _nested(depth: int) -> pa.Array:
    values = pa.array([1])
    for _ in range(depth):
        values = pa.StructArray.from_arrays([values], ["a"])
    return values


def _claimed_rows() -> bytes:
    """Repeat nothing, two thousand million times: runs cost a few bytes."""
    data = bytearray(table({"image": pa.nulls(1000, pa.binary())}, compression="none"))
    length = struct.unpack("<I", data[-8:-4])[0]
    start = len(data) - 8 - length
    data[start:-8] = data[start:-8].replace(_number(1000), _number(2**31 - 1))
    data[-8:-4] = struct.pack("<I", len(data) - 8 - start)
    return bytes(data)


def _repeated() -> bytes:
    """Hold one picture of a megabyte, ten thousand times: 10 GB from a file of 1 MB."""
    large = PICTURE + np.random.default_rng(0).bytes(1 << 20)
    indices = pa.array(np.zeros(10_000, dtype=np.int32))
    column = pa.DictionaryArray.from_arrays(indices, pa.array([large], pa.binary()))
    return table({"image": column}, compression="zstd", store_schema=False)


def _extension(name: str, content: str, kind: pa.DataType) -> bytes:
    field = pa.field(
        "image",
        kind,
        metadata={"ARROW:extension:name": name, "ARROW:extension:metadata": content},
    )
    return table({"image": pa.array([PICTURE])}, forged=pa.schema([field]))


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "deep": (lambda: footer([b"a"] * 200_000), "unreadable"),
    "deep column": (lambda: table({"image": _nested(60)}), "a column 'image'"),
    "a long name": (lambda: footer([b"a", b"x" * 10_000_000]), "columns"),
    "many columns": (
        lambda: table({f"c{n}": pa.array([1]) for n in range(10_001)}),
        "10,001 columns",
    ),
    "rows from nothing": (_claimed_rows, "2,147,483,647 rows in"),
    "one picture again and again": (_repeated, "read"),
    "two columns of the name": (lambda: _doubled(), "a column 'image'"),
    "a dictionary": (
        lambda: table({"image": pa.array([PICTURE]).dictionary_encode()}),
        "a column 'image'",
    ),
    "lists": (lambda: table({"image": pa.array([[PICTURE]])}), "a column 'image'"),
    "texts": (lambda: table({"image": pa.array([{"bytes": "x"}])}), "a column 'image'"),
    "nothing": (lambda: table({"image": pa.array([None], IMAGE)}), "no image bytes"),
    "empty": (lambda: table({"image": pa.array([b""])}), "not a readable image"),
    "a caption that is no text": (
        lambda: table(
            {
                "image": pa.array([PICTURE]),
                "caption": pa.array([b"\xff\xfe"]).view(pa.string()),
            }
        ),
        "unreadable",
    ),
    "code as a type": (
        lambda: _extension(
            "arrow.py_extension_type", "cos\nsystem\n(S'touch victim'\ntR.", pa.binary()
        ),
        "read",
    ),
    "a tensor of any size": (
        lambda: _extension(
            "arrow.fixed_shape_tensor", '{"shape":[999999999,999999999]}', pa.list_(pa.uint8(), 9)
        ),
        "",
    ),
    "another schema": (
        lambda: table(
            {"image": pa.array([PICTURE])},
            forged=pa.schema([("image", pa.list_(pa.int64(), 2**31 - 1))]),
        ),
        "",
    ),
    "no footer": (lambda: b"PAR1" + b"\xff" * 100 + b"\xff\xff\xff\x7fPAR1", "unreadable"),
    "half": (lambda: table({"image": pa.array([PICTURE] * 50)})[: -len(PICTURE)], "unreadable"),
}


def _doubled() -> bytes:
    made = pa.Table.from_arrays([pa.array([PICTURE])] * 2, names=["image", "image"])
    sink = io.BytesIO()
    pq.write_table(made, sink)
    return sink.getvalue()


LOOK = """
import json, sys, time
from pathlib import Path
from rdm_batch.datasets.parquet import ImageParquet
from rdm_batch.errors import RdmBatchError
from rdm_batch.regression.memory import peak_resident

before, found = peak_resident(), {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, file=sys.stderr, flush=True)
    start = time.process_time()
    try:
        source = ImageParquet(path)
        source.size(0)
        said = "read: %s" % (source[len(source) - 1].image.shape,)
    except RdmBatchError as error:
        said = str(error)
    found[path.name] = said, time.process_time() - start
print(json.dumps([found, (peak_resident() - before) / 1e6]))
"""


def test_hostile_tables_take_neither_time_nor_memory_nor_the_process(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, (make, _) in HOSTILE.items():
        (tmp_path / "in" / name).write_bytes(make())
    run = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path / "in")],
        **{"capture_output": True, "text": True, "timeout": 120, "cwd": tmp_path},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found, megabytes = json.loads(run.stdout)
    for name, (said, seconds) in found.items():
        assert HOSTILE[name][1] in said, (name, said)
        assert len(said) < 2_000
        assert seconds < 20, (name, seconds)
    assert megabytes < 500
    assert not (tmp_path / "victim").exists()


def test_rows_are_read_forward_and_back(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pictures = [encode(Image.new("RGB", (8, 8), (n, 0, 0))) for n in range(50)]
    path.write_bytes(table({"image": pa.array(pictures)}, row_group_size=20))
    source = ImageParquet(path)
    for index in (0, 49, 3, 17, 16, 19, 20, 48, 47, 0):
        assert source[index].image[0, 0, 0] == index
        assert source[index].item_id == f"a.parquet#{index}"


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(ImageError, match="is a FIFO, not a file"):
        ImageParquet(tmp_path / "a.parquet")
