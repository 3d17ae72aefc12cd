from __future__ import annotations

import ast
import collections
import contextlib
import datetime
import pickle
import re
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.pickle_reader import read_pickle
from rdm_batch.formats.pickle_values import (
    Name,
    OtherKey,
    PickleLimits,
    Record,
    Reference,
    as_mapping,
)

SMALL = PickleLimits(instructions=20_000, num_bytes=4 << 20, marks=100)


def read(data: bytes, limits: PickleLimits = SMALL) -> Any:
    return read_pickle(data, limits)[0]


def refusal(data: bytes, limits: PickleLimits = SMALL) -> str:
    with pytest.raises(FormatError) as caught:
        read(data, limits)
    return str(caught.value)


_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
_keys = st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**63), 2**63 - 1)
_plain = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(_keys, inner) | st.sets(_keys)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("protocol", range(3, 6))
@settings(max_examples=60, deadline=None)
@given(value=_plain | st.binary() | st.binary().map(bytearray))
def test_plain_values_come_back_as_python_reads_them(protocol: int, value: Any) -> None:
    data = pickle.dumps(value, protocol)
    found = read(data)
    # Sets need a call in protocol 3; bytes that can be changed come back as bytes.
    if b"builtins\nset" not in data and not isinstance(value, bytearray):
        assert found == value
        assert repr(type(found)) == repr(type(value))


@pytest.mark.parametrize("protocol", range(6))
def test_values_of_every_protocol_come_back(protocol: int) -> None:
    shared = [1, 2]
    value = {
        "text": "é\\ 'quoted' \n \U0001f600",
        "numbers": [0, 255, 256, 65536, -1, 2**40, -(2**80), 1.5, float("inf"), True, None],
        "nested": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {"a": [{}]}),
        "shared": [shared, shared],
        7: "seven",
    }
    found = read(pickle.dumps(value, protocol))
    assert found == value
    assert found["shared"][0] is found["shared"][1]


@pytest.mark.parametrize("protocol", range(6))
def test_what_is_no_plain_value_is_recorded_and_never_looked_up(protocol: int) -> None:
    found = read(pickle.dumps([datetime.date(2026, 1, 2), collections.OrderedDict(a=1)], protocol))
    assert isinstance(found[0], Record)
    assert found[0].maker == Name("datetime", "date")
    assert as_mapping(found[0]) is None
    assert as_mapping(found[1]) == {"a": 1}
    [missing] = read(b"(cno.such.module\nthing\nl.")
    assert missing == Name("no.such.module", "thing")
    assert isinstance(read(b"Vstorage\nQ."), Reference)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "mapping",
    [
        collections.OrderedDict(a=1, b=[2]),
        collections.Counter("aab"),
        collections.defaultdict(int, a=1),
        collections.OrderedDict(),
    ],
)
def test_mappings_of_the_standard_library_are_plain_dicts(protocol: int, mapping: Any) -> None:
    assert as_mapping(read(pickle.dumps(mapping, protocol))) == dict(mapping)


def test_an_attribute_given_to_a_mapping_changes_nothing() -> None:
    data = b"ccollections\nOrderedDict\n)R(Va\nK\x01u}Vitems\nNsb."
    assert as_mapping(read(data)) == {"a": 1}


def test_a_list_that_holds_itself_is_read() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    found = read(pickle.dumps(loop))
    assert found[1] is found


def test_keys_are_hashed_only_where_that_costs_little() -> None:
    deep = b"(" * 90 + b"K\x01" + b"t" * 90
    [key] = read(b"}" + deep + b"K\x01s.")
    assert isinstance(key, OtherKey)
    # Numbers chosen to collide: all have the hash 0, and a dict of them takes hours.
    modulus = sys.hash_info.modulus
    colliding = {index * modulus: None for index in range(3)}
    assert len({hash(key) for key in colliding}) == 1
    many = b"".join(
        b"\x8a\x10" + (index * modulus).to_bytes(16, "little") + b"N" for index in range(9_000)
    )
    before = time.process_time()
    assert len(read(b"}(" + many + b"u.")) == 9_000
    assert time.process_time() - before < 2
    for unhashable in (b"]", b"}", b"\x8f"):
        assert "as a key" in refusal(b"}" + unhashable + b"Ns.")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        b"\x80\x06N.",
        b"\x80",
        b"N",
        b"NN.",
        b"(N.",
        b".",
        b"0",
        b"a",
        b"Na.",
        b"NNs.",
        b"}(Nu.",
        b"t.",
        b"\x85.",
        b"\x86.",
        b"Nb.",
        b"R.",
        b"o.",
        b"(o.",
        b"\x93.",
        b"NN\x93.",
        b"h\x05.",
        b"g5\n.",
        b"gx\n.",
        b"Np-1\n.",
        b"I\n.",
        b"Ix\n.",
        b"I" + b"9" * 5_000 + b"\n.",
        b"L" + b"9" * 5_000 + b"L\n.",
        b"Fx\n.",
        b"F",
        b"G\x00\x00.",
        b"S'a\n.",
        b"S'\\x41'\n.",
        b"Sa\n.",
        b"V\\ud800\n.",
        b"X\x01\x00\x00\x00\xff.",
        b"X\xff\xff\xff\xff",
        b"\x8d" + b"\xff" * 8,
        b"\x8e" + b"\xff" * 8,
        b"\x96" + b"\xff" * 8,
        b"T\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\x7f",
        b"\x95" + b"\xff" * 8 + b"N.",
        b"\x97.",
        b"N\x98.",
        b"\x82\x01.",
        b"\xff",
        b"csys\n\xff\n.",
        b"P\xff\n.",
    ],
)
def test_damaged_pickles_are_refused(data: bytes) -> None:
    assert refusal(data)


@settings(max_examples=400, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        read(data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"N" * 25_000 + b".", "20,000 instructions"),
        (b"(" * 101 + b".", "nests deeper than 100"),
        (b"\x8f" * 19_500, "bytes of memory"),
        (b"X\x00\x00\x20\x00" + b"a" * (2 << 20) + b".", "bytes of memory"),
        (b"V" + b"a" * (2 << 20) + b"\n.", "bytes of memory"),
        (b"(" + b"N" * 15_000 + b"l" + b"(" + b"2" * 3 + b"u.", "lacks its values|no dict"),
    ],
)
def test_what_a_pickle_may_cost_is_bounded(data: bytes, what: str) -> None:
    assert re.search(what, refusal(data))


_PEAK = """
import sys, tracemalloc
from rdm_batch.formats.pickle_reader import read_pickle
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.pickle_values import PickleLimits
data = sys.stdin.buffer.read()
tracemalloc.start()
try:
    read_pickle(data, PickleLimits(num_bytes=1 << 20))
except FormatError as error:
    assert "bytes of memory" in str(error) or "lacks its values" in str(error), error
print(tracemalloc.get_traced_memory()[1])
"""


def _peak(data: bytes) -> int:
    """Return the most bytes that reading takes, in a process of its own."""
    child = subprocess.run([sys.executable, "-c", _PEAK], input=data, capture_output=True)
    return int(child.stdout)


def test_memory_stays_below_what_the_limit_says() -> None:
    """The estimate is one from above, for the instructions that make most of few bytes."""
    numbers = [b"J" + struct.pack("<i", 1000 * index) for index in range(9_000)]
    hungry = [
        *(unit * 30_000 for unit in (b"\x8f", b"}", b"]", b"N\x85", b"N\x94", b"c\n\n)R", b"NQ")),
        *(unit * 30_000 for unit in (b"(i\n\n", b"(NNd", b"\x8c\x01a", b"\x8a\x09" + b"\x7f" * 9)),
        b"](" + b"N" * 50_000 + b"e.",
        b"}(" + b"N".join(numbers) + b"Nu.",
        b"\x8f(" + b"".join(numbers) + b"\x90.",
    ]
    assert max(map(_peak, hungry)) < 2 << 20


def test_a_huge_number_of_a_memo_costs_nothing() -> None:
    """The standard reader makes room for all numbers below: 2.8 GB for eight bytes."""
    data = b"Nr\xff\xff\xff\x0f."
    assert read(data) is None
    assert _peak(data) < 2 << 20


def test_deep_nesting_without_marks_ends_well() -> None:
    for data in (b"N" + b"\x85" * 900_000 + b".", b"]" * 400_000 + b"a" * 399_999 + b"."):
        code = (
            "import sys; from rdm_batch.formats.pickle_reader import read_pickle;"
            "from rdm_batch.formats.pickle_values import PickleLimits;"
            "read_pickle(sys.stdin.buffer.read(), PickleLimits(instructions=10**6))"
        )
        assert subprocess.run([sys.executable, "-c", code], input=data).returncode == 0


def test_no_file_is_unpickled_anywhere() -> None:
    """Objects of libraries are never made from what a file says: see the plain reader."""
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    package = Path(__file__).parents[2] / "rdm_batch"
    found = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "torch.load",
                "torch.jit.load",
            ):
                names = [ast.unparse(node)]
            bad = [
                name
                for name in names
                if name.split(".")[0] in forbidden or name in ("torch.load", "torch.jit.load")
            ]
            found += [f"{path.relative_to(package)}: {name}" for name in bad]
    assert found == []
