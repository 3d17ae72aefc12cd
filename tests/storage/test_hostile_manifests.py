"""Small JSON objects as an enemy, or a failing disk, would leave them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from rdm_batch.errors import DatabaseError, RdmBatchError, SampleSetError
from rdm_batch.formats.json_text import MAX_DEPTH, parse_json
from rdm_batch.reports.run_report import load_report
from rdm_batch.retrieval.database import parse_manifest as parse_database
from rdm_batch.storage.manifest import SampleSetHeader, ShardEntry, Success, parse_manifest

HEADER: dict[str, Any] = {
    **{"format_version": 1, "spec": {}, "digest": "0" * 64, "seed": 1},
    **{"num_samples": 10, "shard_size": 4, "image_size": 8},
}
TEXTS = {
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "deep, and closed": b'{"spec":' + b'{"a":' * 900 + b"1" + b"}" * 901,
    "a number": b"1",
    "nothing": b"null",
    "a list": b"[]",
    "no text": b"\xff\xfe\x00",
    "empty": b"",
    "zeros": b"\x00" * 100,
    "half a character": b'{"run": "\\ud800"}',
    "5,000 digits": b'{"seed": ' + b"1" * 5_000 + b"}",
    "an infinite number": b'{"seed": 1e999}',
    "a version that is an object": b'{"format_version": {"a": 1}}',
    "a long version": b'{"format_version": "' + b"9" * 100_000 + b'"}',
}
READERS: dict[str, Callable[[bytes], object]] = {
    "header": lambda data: parse_manifest(SampleSetHeader, data, "x", SampleSetError),
    "entry": lambda data: parse_manifest(ShardEntry, data, "x", SampleSetError),
    "success": lambda data: parse_manifest(Success, data, "x", SampleSetError),
    "database": lambda data: parse_database(data, "x"),
    "report": lambda data: load_report(data, "x"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_hostile_text_is_one_short_error(text: str, reader: str) -> None:
    start = time.process_time()
    with pytest.raises((SampleSetError, DatabaseError)) as caught:
        READERS[reader](TEXTS[text])
    assert len(str(caught.value).encode()) < 2_000
    assert time.process_time() - start < 20.0


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_samples", 10**4000),
        ("num_samples", 10**9 + 1),
        ("shard_size", 10**30),
        ("seed", 2**63),
        ("image_size", 10**30),
        ("spec", _nested(300)),
        ("spec", {"\ud800": 1}),
    ],
)
def test_a_header_that_nothing_could_have_written_is_damaged(field: str, value: object) -> None:
    data = json.dumps({**HEADER, field: value}).encode()
    with pytest.raises(RdmBatchError, match="is damaged"):
        READERS["header"](data)
    assert READERS["header"](json.dumps(HEADER).encode())


def test_depth_within_the_limit_is_read() -> None:
    value = _nested(MAX_DEPTH - 1)
    assert parse_json(json.dumps(value)) == value
    with pytest.raises(ValueError, match="nests too deep"):
        parse_json(json.dumps(_nested(MAX_DEPTH)))
