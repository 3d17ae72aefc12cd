"""Read the databases that the authors of RDM published: folders of ``.npz`` parts."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.embeddings import check_embeddings

_PART_ARRAYS = ("embedding", "img_id", "patch_coords")


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
        DatabaseError: The file is damaged, holds pickled objects, lacks an array, or a
            row is not finite or zero.
    """
    wanted = "arrays embedding (n, dim) float16 or float32, img_id (n,), patch_coords (n, 4)"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in _PART_ARRAYS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as problem:
        raise DatabaseError(str(path), f"unreadable ({problem})", wanted) from problem
    embeddings, image_ids = found.get("embedding"), found.get("img_id")
    if embeddings is None or image_ids is None:
        raise DatabaseError(str(path), f"arrays {sorted(found)}", wanted)
    coords = found.get("patch_coords")
    shapes_fit = (
        embeddings.ndim == 2
        and embeddings.dtype in (np.float16, np.float32)
        and image_ids.shape == embeddings.shape[:1]
        and (coords is None or coords.shape == (len(embeddings), 4))
    )
    if not shapes_fit:
        shapes = {name: f"{array.shape} {array.dtype}" for name, array in sorted(found.items())}
        raise DatabaseError(str(path), f"arrays {shapes}", wanted)
    check_embeddings(embeddings, str(path))
    return NpzPart(
        path.stem,
        embeddings,
        image_ids.astype(np.int64),
        None if coords is None else coords.astype(np.int64),
    )


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
