from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.npz_parts import order_parts, read_neighbor_memory, read_part


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


def write_part(path: Path, **arrays: np.ndarray) -> Path:
    defaults: dict[str, np.ndarray] = {
        "embedding": np.ones((3, 8), dtype=np.float16),
        "img_id": np.arange(3),
        "patch_coords": np.zeros((3, 4), dtype=np.int64),
    }
    kept = {name: array for name, array in (defaults | arrays).items() if array.size}
    np.savez(path, **kept)
    return path


def test_parts_are_read_with_and_without_patches(tmp_path: Path) -> None:
    part = read_part(write_part(tmp_path / "a.npz", class_id=np.array(["x", "y", "z"])))
    assert part.name == "a"
    assert part.image_ids.tolist() == [0, 1, 2]
    assert part.patch_coords is not None
    bare = read_part(write_part(tmp_path / "b.npz", patch_coords=np.empty(0)))
    assert bare.patch_coords is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"embedding": np.empty(0)}, "arrays .*img_id"),
        ({"img_id": np.arange(2)}, r"img_id.*\(2,\) int64"),
        ({"embedding": np.ones((3, 8))}, "float64"),
        ({"patch_coords": np.zeros((3, 2))}, "patch_coords"),
        ({"embedding": np.full((3, 8), np.nan, dtype=np.float16)}, "row 0 holds NaN"),
    ],
)
def test_malformed_parts_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(DatabaseError, match=message):
        read_part(write_part(tmp_path / "a.npz", **arrays))


def test_parts_with_pickled_objects_are_refused(tmp_path: Path) -> None:
    ids = np.array([1, "a", None], dtype=object)
    with pytest.raises(DatabaseError, match="unreadable"):
        read_part(write_part(tmp_path / "a.npz", img_id=ids))


@pytest.mark.parametrize("kept", [0, 100, 300])
def test_truncated_parts_are_refused(tmp_path: Path, kept: int) -> None:
    path = write_part(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DatabaseError, match="unreadable"):
        read_part(path)


def test_part_order_is_explicit_and_complete(tmp_path: Path) -> None:
    for name in ("1", "2", "10"):
        write_part(tmp_path / f"{name}.npz")
    ordered = order_parts(tmp_path, ["10", "2.npz", "1"])
    assert [path.name for path in ordered] == ["10.npz", "2.npz", "1.npz"]
    for names in (["1", "2"], ["1", "2", "2", "10"], ["1", "2", "3"], []):
        with pytest.raises(DatabaseError, match="every part exactly once"):
            order_parts(tmp_path, names)
