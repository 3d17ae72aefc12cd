from __future__ import annotations

import collections
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.neighbor_memory import read_neighbor_memory


def write_memory(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("ids", "counts"),
    [
        ([7, 3, 9], {3: 4, 7: 5, 9: 1}),
        (np.array([7, 3, 9], dtype=np.int32), {3: np.int64(4), 7: np.int64(5), 9: np.int64(1)}),
        ([7, 3, 9], collections.Counter({3: 4, 7: 5, 9: 1})),
        ([7, 3, 9], collections.defaultdict(int, {3: 4, 7: 5, 9: 1})),
    ],
    ids=["plain", "numpy", "counter", "defaultdict"],
)
def test_neighbor_memories_are_read(tmp_path: Path, ids: Any, counts: Any, protocol: int) -> None:
    path = write_memory(tmp_path / "a.p", {"nn_memory": ids, "id_count": counts}, protocol)
    proposal = read_neighbor_memory(path)
    assert proposal.row_ids.tolist() == [7, 3, 9]
    assert proposal.counts.tolist() == [5, 4, 1]


def test_neighbor_memories_of_older_numpy_are_read(tmp_path: Path) -> None:
    memory = {"nn_memory": np.array([7, 3], dtype=np.int32), "id_count": {3: 4, 7: 5}}
    data = pickle.dumps(memory, protocol=2)
    assert b"numpy._core.multiarray" in data
    (tmp_path / "a.p").write_bytes(
        data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    )
    assert read_neighbor_memory(tmp_path / "a.p").row_ids.tolist() == [7, 3]


@pytest.mark.parametrize("function", [os.system, eval, Path.touch, pickle.loads])
def test_nothing_in_a_pickle_is_executed(tmp_path: Path, function: Any) -> None:
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (function, (f"touch {marker}",))

    path = write_memory(tmp_path / "a.p", {"nn_memory": [1], "id_count": {1: 1}, "x": Payload()})
    with pytest.raises(DatabaseError, match="nothing in it was executed"):
        read_neighbor_memory(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({"nn_memory": [1]}),
        pickle.dumps({"nn_memory": [1], "id_count": {2: 1}}),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.p").write_bytes(content)
    with pytest.raises(DatabaseError, match="a pickled dict of nn_memory and id_count"):
        read_neighbor_memory(tmp_path / "a.p")


def _type(code: str, state: bytes) -> bytes:
    return b"cnumpy\ndtype\n(V" + code.encode() + b"\ntR(K\x03V|\nNNN" + state + b"tb"


_MINUS_1 = b"J\xff\xff\xff\xff"
_POINTERS = _type("O", 2 * _MINUS_1 + b"K\x00")
_STRUCTURE = (
    b"cnumpy\ndtype\n(VV8\ntR(K\x03V|\nN(Va\nt}Va\n(cnumpy\ndtype\n(VO\ntRK\x00tsK\x08K\x01K\x00tb"
)
_ADDRESS = b"C\x08AAAAAAAA"
_FORGED = {
    # A type whose state was set to say that it holds no objects; then bytes as its numbers.
    "array by call": b"cnumpy\nndarray\n(K\x01\x85" + _POINTERS + _ADDRESS + b"tR",
    "structure from bytes": b"cnumpy._core.numeric\n_frombuffer\n("
    + _ADDRESS
    + _STRUCTURE
    + b"K\x01\x85VC\ntR",
    "array by state": b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    b"(K\x01K\x01\x85" + _POINTERS + b"\x89" + _ADDRESS + b"tb",
    "number": b"cnumpy._core.multiarray\nscalar\n(" + _POINTERS + _ADDRESS + b"tR",
    "buffer of another size": b"cnumpy._core.numeric\n_frombuffer\n("
    + _ADDRESS
    + _type("i8", 2 * _MINUS_1 + b"K\x00")
    + b"K\x02\x85VC\ntR",
    "type without a state": b"cnumpy._core.numeric\n_frombuffer\n("
    + _ADDRESS
    + b"cnumpy\ndtype\n(Vi8\ntRK\x01\x85VC\ntR",
}
_TRUSTING = """
import pickle, sys
import numpy as np
np.asarray(pickle.load(sys.stdin.buffer)["nn_memory"]).astype(np.int64)
"""


@pytest.mark.parametrize("forgery", _FORGED)
def test_forged_arrays_are_refused(tmp_path: Path, forgery: str) -> None:
    content = b"\x80\x04}(Vnn_memory\n" + _FORGED[forgery] + b"Vid_count\n}u."
    (tmp_path / "a.p").write_bytes(content)
    with pytest.raises(DatabaseError, match="unreadable"):
        read_neighbor_memory(tmp_path / "a.p")
    if forgery in ("array by call", "structure from bytes"):
        died = subprocess.run([sys.executable, "-c", _TRUSTING], input=content, capture_output=True)
        assert died.returncode < 0, "the file of this test was not hostile"


@pytest.mark.parametrize(
    ("ids", "counts", "what"),
    [
        ([1.5], {1: 1}, "nn_memory holds a float, not an integer"),
        ([True], {1: 1}, "nn_memory holds a bool"),
        (["1"], {"1": 1}, "nn_memory holds a str"),
        (np.array([1.5]), {1: 1}, "not a plain integer"),
        (np.array([[1]]), {1: 1}, "not a flat one of integers"),
        (np.array([None]), {1: 1}, "not a plain integer|not a flat one"),
        (np.array([2**63], np.uint64), {2**63: 1}, "beyond 64 bits"),
        ([2**63], {2**63: 1}, "beyond 64 bits"),
        ([1], {1: 1.5}, "id_count holds a float"),
        ([1], {1: np.float64(1)}, "not a plain integer"),
        ([1], [1], "id_count is no dict"),
        (7, {7: 1}, "nn_memory is no list"),
    ],
)
def test_what_is_no_integer_is_refused_and_never_rounded(
    tmp_path: Path, ids: Any, counts: Any, what: str
) -> None:
    path = write_memory(tmp_path / "a.p", {"nn_memory": ids, "id_count": counts})
    with pytest.raises(DatabaseError, match=what):
        read_neighbor_memory(path)


@pytest.mark.parametrize("dtype", ["<i2", ">i8", "u1", "<u4", ">u8", "i1"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_integers_of_every_width_and_byte_order_are_read(
    tmp_path: Path, dtype: str, protocol: int
) -> None:
    ids = np.array([100, 3], dtype)
    memory = {"nn_memory": ids, "id_count": dict(zip(ids, np.array([9, 5], dtype), strict=True))}
    path = write_memory(tmp_path / "a.p", memory, protocol)
    proposal = read_neighbor_memory(path)
    assert (proposal.row_ids.tolist(), proposal.counts.tolist()) == ([100, 3], [9, 5])


@pytest.mark.parametrize("kind", ["nothing", "folder", "pipe"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.p"
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(DatabaseError, match=r"no such file|is a folder|is a FIFO"):
        read_neighbor_memory(path)
