"""Read the databases that the authors of RDM published: folders of ``.npz`` parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from rdm_batch.errors import DatabaseError
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.npz_file import ArrayHeader, open_npz
from rdm_batch.retrieval.embeddings import check_embeddings

_PART_ARRAYS = ("embedding", "img_id", "patch_coords")
_WANTED = (
    "arrays embedding (n, dim) float16 or float32, img_id (n,) of integers, patch_coords (n, 4) "
    "of integers"
)


@dataclass(frozen=True)
class NpzPart:
    """Hold one ``.npz`` part of a published database."""

    name: str
    embeddings: Float[np.ndarray, "rows dim"]
    image_ids: Int64[np.ndarray, " rows"]
    patch_coords: Int64[np.ndarray, "rows 4"] | None


def read_part(path: Path) -> NpzPart:
    """Read one ``.npz`` part: ``embedding``, ``img_id`` and, where there, ``patch_coords``.

    Raises:
        DatabaseError: The file is damaged, holds pickled objects, lacks an array, has ids or
            coordinates that are no integers or too large ones, or a row is not finite or zero.
    """
    try:
        with open_npz(path) as arrays:
            names = [name for name in _PART_ARRAYS if name in arrays.names]
            headers = {name: arrays.header(name) for name in names}
            if not _fit(headers):
                shapes = "; ".join(f"{name} {header}" for name, header in headers.items())
                raise FormatError(f"arrays {shapes or ', '.join(arrays.names) or '(none)'}")
            found = {name: arrays.read(name) for name in names}
    except FormatError as problem:
        raise DatabaseError(str(path), f"unreadable ({problem})", _WANTED) from None
    check_embeddings(found["embedding"], str(path))
    coords = found.get("patch_coords")
    return NpzPart(
        path.stem,
        found["embedding"],
        _within(found["img_id"], np.int64, "img_id", path),
        None if coords is None else _within(coords, np.int32, "patch_coords", path),
    )


def _fit(headers: Mapping[str, ArrayHeader]) -> bool:
    """Say whether the arrays are those of a part, by their types and shapes."""
    if not {"embedding", "img_id"} <= headers.keys():
        return False
    embedding = headers["embedding"]
    coords = headers.get("patch_coords")
    return (
        len(embedding.shape) == 2
        and embedding.dtype.newbyteorder("=") in (np.float16, np.float32)
        and headers["img_id"].shape == embedding.shape[:1]
        and (coords is None or coords.shape == (embedding.shape[0], 4))
        # Numbers of other kinds would be cut to integers, and nobody would know.
        and all(headers[name].dtype.kind in "iu" for name in headers.keys() - {"embedding"})
    )


def _within(array: np.ndarray, kind: type[np.integer], name: str, path: Path) -> np.ndarray:
    """Give integers as int64 when the database has room for each of them."""
    room = np.iinfo(kind)
    if array.size and (int(array.max()) > room.max or int(array.min()) < room.min):
        beyond = int(array.max()) if int(array.max()) > room.max else int(array.min())
        raise DatabaseError(str(path), f"{name} holds {beyond:,}", f"{room.min:,} to {room.max:,}")
    return array.astype(np.int64)


def order_parts(folder: Path, names: Sequence[str]) -> list[Path]:
    """Resolve the explicit order of the ``.npz`` parts in a folder.

    Row ids of a neighbor memory count through the parts in this order, and the order the
    authors used was never recorded: it must be given.

    Args:
        folder: Folder of the parts.
        names: File names, with or without ``.npz``, in row order.

    Raises:
        DatabaseError: A name is missing, unknown or repeated.
    """
    present = {path.stem: path for path in sorted(folder.glob("*.npz"))}
    wanted = [name.removesuffix(".npz") for name in names]
    if sorted(wanted) != sorted(present):
        raise DatabaseError(
            str(folder),
            f"parts {', '.join(present) or '(none)'} but the order names {', '.join(wanted)}",
            "every part exactly once, in row order",
        )
    return [present[name] for name in wanted]
