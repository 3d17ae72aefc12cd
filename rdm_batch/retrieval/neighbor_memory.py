"""Read the neighbor memories that the authors of RDM published: pickles of plain values.

Numbers may be numpy's, of any release that wrote such files. What numpy stores is read here
from plain bytes and a fixed list of types; numpy itself is never told what a pickle says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Int64

from rdm_batch.errors import DatabaseError
from rdm_batch.files import read_limited
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.pickle_reader import read_pickle
from rdm_batch.formats.pickle_values import (
    Name,
    PickleLimits,
    Record,
    as_mapping,
    describe,
)
from rdm_batch.retrieval.proposal import Proposal

# The largest published memory has 3.4 million rows, each with a count: 40 MB of plain
# integers, some 200 MB where both are numpy's.
_MAX_BYTES: Final = 512 << 20
_LIMITS: Final = PickleLimits(instructions=80_000_000, num_bytes=6 << 30)
_WANTED: Final = "a pickled dict of nn_memory and id_count, of plain values"

_DTYPE: Final = Name("numpy", "dtype")
_ARRAY: Final = Name("numpy", "ndarray")
_CODEC: Final = Name("_codecs", "encode")
_SCALAR, _RECONSTRUCT, _FROM_BUFFER = (
    {Name(f"numpy.{core}.{module}", name) for core in ("core", "_core")}
    for module, name in (
        ("multiarray", "scalar"),
        ("multiarray", "_reconstruct"),
        ("numeric", "_frombuffer"),
    )
)
_KNOWN: Final = {
    *(_DTYPE, _CODEC, *_SCALAR, *_RECONSTRUCT, *_FROM_BUFFER),
    *(Name(module, name) for module in ("builtins", "__builtin__") for name in ("int", "long")),
    *(Name("collections", name) for name in ("Counter", "OrderedDict", "defaultdict")),
}
_CODES: Final = {f"{kind}{width}": (width, kind == "i") for kind in "iu" for width in (1, 2, 4, 8)}
_INTEGERS: Final = {
    (width, signed, order): np.dtype(f"{mark}{code}")
    for code, (width, signed) in _CODES.items()
    for order, mark in (("little", "<"), ("big", ">"))
}
# What follows the byte order in the state of a type that is a plain number.
_PLAIN_STATE: Final = (None, None, None, -1, -1, 0)


def read_neighbor_memory(path: Path) -> Proposal:
    """Read a published neighbor memory as the proposal distribution it is.

    Raises:
        DatabaseError: The file is not a pickled dict of ``nn_memory`` (row ids, most
            frequent first) and ``id_count`` (row id to count), is larger than such a file can
            be, or holds anything that would have to be executed; nothing is.
    """
    data = read_limited(path, _MAX_BYTES, DatabaseError)
    try:
        content, _ = read_pickle(data, _LIMITS, _interpret)
        del data
        memory = as_mapping(content)
        if memory is None:
            raise FormatError(f"it holds {describe(content)}")
        for name in ("nn_memory", "id_count"):
            if name not in memory:
                raise FormatError(f"{name} is missing")
        counts = as_mapping(memory["id_count"])
        if counts is None:
            raise FormatError("id_count is no dict")
        row_ids = _integers(memory["nn_memory"], "nn_memory")
        missing = next((row for row in row_ids.tolist() if row not in counts), None)
        if missing is not None:
            raise FormatError(f"id_count lacks row {missing}")
        return Proposal(row_ids, _integers([counts[row] for row in row_ids.tolist()], "id_count"))
    except FormatError as problem:
        raise DatabaseError(str(path), f"unreadable ({problem})", _WANTED) from None


def _interpret(record: Record) -> object:
    """Give numpy's integers and the byte strings of Python 3 in old protocols; refuse the unknown.

    Types and arrays stay records: a pickle states them in two steps.
    """
    maker, args = record.maker, record.args
    if not isinstance(maker, Name):
        raise FormatError("it calls what is no name")
    if maker not in _KNOWN:
        raise FormatError(
            f"it asks for {maker}; do not trust this file; nothing in it was executed"
        )
    if maker in _SCALAR:
        if isinstance(args, tuple) and len(args) == 2 and type(args[1]) is bytes:
            width, signed, order = _integer_type(args[0])
            if len(args[1]) == width:
                return int.from_bytes(args[1], order, signed=signed)
        raise FormatError("a number of numpy that is none")
    if maker == _CODEC:
        try:
            if isinstance(args, tuple) and len(args) == 2 and args[1] == "latin1":
                return str.encode(args[0], "latin1")
        except (TypeError, UnicodeEncodeError):
            pass
        raise FormatError("bytes that are none")
    return record


def _integers(value: object, what: str) -> Int64[np.ndarray, " n"]:
    """Read a list of integers or an array of them, without rounding anything."""
    if isinstance(value, Record):
        array = _stored_array(value)
        # The only unsigned numbers that do not fit would turn negative.
        if array.dtype.itemsize == 8 and array.dtype.kind == "u" and (array >> np.uint64(63)).any():
            raise FormatError(f"{what} holds an integer beyond 64 bits")
        return array.astype(np.int64)
    if not isinstance(value, list | tuple):
        raise FormatError(f"{what} is no list of integers")
    other = next((item for item in value if type(item) is not int), None)
    if other is not None:
        raise FormatError(f"{what} holds {describe(other)}, not an integer")
    try:
        return np.array(value, dtype=np.int64)
    except OverflowError:
        raise FormatError(f"{what} holds an integer beyond 64 bits") from None


def _stored_array(record: Record) -> np.ndarray:
    """Read a flat array of integers as any numpy stores it."""
    if record.maker in _FROM_BUFFER:
        match record.args:
            case (bytes(data), Record() as dtype, (int(size),), "C" | "F"):
                return _array(data, dtype, size)
    elif record.maker in _RECONSTRUCT:
        match record.args, record.state:
            case (maker, (0,), _), (1, (int(size),), Record() as dtype, bool(), bytes(data)):
                if maker == _ARRAY:
                    return _array(data, dtype, size)
    raise FormatError("an array that is not a flat one of integers")


def _array(data: bytes, dtype: Record, size: int) -> np.ndarray:
    """Make an array from bytes, when they are as many as its type and size say."""
    width, signed, order = _integer_type(dtype)
    if size < 0 or size * width != len(data):
        raise FormatError(f"an array of {size:,} numbers of {width} bytes in {len(data):,} bytes")
    return np.frombuffer(data, dtype=_INTEGERS[width, signed, order])


def _integer_type(record: object) -> tuple[int, bool, Literal["little", "big"]]:
    """Give the bytes of a stored type of integers, whether it has a sign, and its byte order."""
    if isinstance(record, Record) and record.maker == _DTYPE:
        args, state = record.args, record.state
        if isinstance(args, tuple) and args and isinstance(state, tuple) and len(state) == 8:
            code, order = args[0], state[1]
            plain = type(code) is str and state[0] == 3 and state[2:] == _PLAIN_STATE
            if plain and code in _CODES and type(order) is str and order in ("<", ">", "|"):
                return (*_CODES[code], "big" if order == ">" else "little")
    raise FormatError("a type of numbers that is not a plain integer")
