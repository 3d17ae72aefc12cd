from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from rdm_batch.errors import RdmBatchError, SpecError
from rdm_batch.specs.architecture_files import load_architecture
from rdm_batch.specs.load import load_job
from rdm_batch.specs.training import load_training
from rdm_batch.specs.yaml_text import MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES, parse_yaml, read_yaml

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
)
TALL = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2_000))
WIDE = f'a: &a "{"x" * 100_000}"\nb: [{", ".join(["*a"] * 1_000)}]\n'

HOSTILE = {
    "an int that is none": ("a: !!int nope", "this is no int"),
    "an empty int": ("a: !!int ''", "this is no int"),
    "a float that is none": ("a: !!float nope", "this is no float"),
    "an empty float": ("a: !!float ''", "this is no float"),
    "a truth that is none": ("a: !!bool perhaps", "this is no bool"),
    "a time that is none": ("a: !!timestamp yesterday", "this is no timestamp"),
    "bytes that are none": ("a: !!binary 'x'", "is not YAML"),
    "a day that never was": ("a: 2024-13-45", "this is no timestamp"),
    "an hour that never was": ("a: 2024-01-01 99:99:99", "this is no timestamp"),
    "5,000 digits": (f"a: {'7' * 5_000}", "a number of 5,000 characters"),
    "5,000 digits in another base": (f"a: 0x{'f' * 5_000}", "a number of 5,002 characters"),
    "base sixty without end": (f"a: 1{':59' * 5_000}", "a number of 15,001 characters"),
    "deep lists": ("a: " + "[" * 5_000, f"more than {MAX_DEPTH} levels"),
    "deep mappings": ("a: " + "{a: " * 5_000, f"more than {MAX_DEPTH} levels"),
    "deep blocks": ("- " * 5_000 + "x", f"more than {MAX_DEPTH} levels"),
    "a set as a key": ("? !!set {a}\n: b", "a key is not a plain value"),
    "a list as a key": ("? [a]\n: b", "a key is not a plain value"),
    "bytes as a key": ("? !!binary YQ==\n: b", "a key is not a plain value"),
    "pairs as a key": ("? !!pairs [a: b]\n: b", "a key is not a plain value"),
    "a mapping that is none": ("a: !!map nope", "is not YAML"),
    "a set that is none": ("a: !!set nope", "is not YAML"),
    "a merge of a number": ("<<: 3", "is not YAML"),
    "a list that holds itself": ("a: &a [*a]", "stands inside what it names"),
    "a mapping that merges itself": ("a: &a {<<: *a}", "stands inside what it names"),
    "a key that is its mapping": ("&a {? *a : b}", "stands inside what it names"),
    "an alias of nothing": ("a: *b", "is not YAML"),
    "a billion laughs": (LAUGHS, f"more than {MAX_NODES:,} values"),
    "a billion merges": (MERGES, f"more than {MAX_NODES:,} values"),
    "a long text again and again": (WIDE, "more than 1,048,576 characters"),
    "a tower of aliases": (TALL, "levels inside each other"),
    "too many values": (f"a: [{'1, ' * MAX_NODES}]", f"more than {MAX_NODES:,} values"),
    "half a character": (r'a: "\ud800"', "a character that no text has"),
    "a zero inside": (r'a: "x\0y"', "a character that no text has"),
    "two documents": ("a: 1\n---\nb: 2", "is not YAML"),
    "a control character": ("a: \x07", "is not YAML"),
    "code": ("a: !!python/object/apply:os.system ['true']", "is not YAML"),
    "a version that is none": ("%YAML 99999.1\n---\na: 1", "is not YAML"),
    "a tag without end": (f"a: !<{'x' * 5_000}> b", "is not YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_one_short_error_in_short_time(name: str) -> None:
    text, message = HOSTILE[name]
    start = time.process_time()
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "job.yaml")
    assert time.process_time() - start < 20.0
    assert message in str(caught.value)
    assert len(str(caught.value)) < 2_000


def test_aliases_and_merges_of_reasonable_size_are_read() -> None:
    text = "base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\nagain: [*base, *base]\n"
    assert parse_yaml(text, "x") == {
        "base": {"a": 1, "b": 2},
        "more": {"a": 1, "b": 3},
        "again": [{"a": 1, "b": 2}] * 2,
    }


READERS = {
    "job": lambda path: load_job(path),
    "training": lambda path: load_training(path, "clip"),
    "architecture": load_architecture,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["a billion laughs", "a set as a key", "an int that is none"])
def test_every_reader_of_yaml_has_the_limits(tmp_path: Path, reader: str, name: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(HOSTILE[name][0])
    with pytest.raises(SpecError) as caught:
        READERS[reader](path)
    assert HOSTILE[name][1] in str(caught.value)


def test_a_value_on_the_command_line_has_the_limits(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: x\n")
    for value, message in (
        ("[" * 5_000, f"more than {MAX_DEPTH} levels"),
        ("!!int nope", "this is no int"),
        ("2024-13-45", "this is no timestamp"),
    ):
        with pytest.raises(SpecError) as caught:
            load_job(path, [f"sampling.seed={value}"])
        assert message in str(caught.value)
    with pytest.raises(RdmBatchError, match=f"names 50,000 keys; needed at most {MAX_DEPTH}"):
        load_job(path, [".".join("a" * 50_000) + "=1"])


def _in_time(call, seconds: float = 10.0) -> str:
    """Give the message of what a call raises; a call that waits for ever fails the test."""
    found: list[str] = []

    def run() -> None:
        try:
            call()
        except SpecError as error:
            found.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it waits, or raises something else"
    return found[0]


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_or_a_device_is_no_file_of_settings(tmp_path: Path, reader: str) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    assert "is a FIFO, not a file" in _in_time(lambda: READERS[reader](pipe))
    assert "is a device, not a file" in _in_time(lambda: READERS[reader](Path("/dev/zero")))
    assert "is a folder, not a file" in _in_time(lambda: READERS[reader](tmp_path))


def test_a_file_beyond_the_limit_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(SpecError, match="has more than 1,048,576 bytes"):
        read_yaml(path)


def test_text_that_is_not_utf8_is_told_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(SpecError, match="byte 6 is not UTF-8"):
        read_yaml(path)
