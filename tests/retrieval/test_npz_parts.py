from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.npz_parts import order_parts, read_part


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
        ({"img_id": np.arange(2)}, r"img_id int64 of shape \(2,\)"),
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
