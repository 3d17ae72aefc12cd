"""Take out of a picture's embedding what pictures that look like it have in common.

A head that edits is to see in the given picture what a text says nothing of: the background, and
where things are and how large. An embedding that tells these as well leaves nothing to be seen
there. Rows whose pixels have the same colors share the background, mostly; rows that differ from
their border at the same places share place and size. Either mean, less that of all rows, is what
an embedding says of it, and is taken away. What is left is near to the same rows a text would be.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from rdm_batch.errors import SpecError
from rdm_batch.inputs.databases import Database

_MOST_ROWS = 1 << 15
"""Rows whose pixels are compared, at most: they are in memory."""
_COLORS_SHARE = 0.04
"""Of the rows, those whose pixels differ least."""
_PLACE_SHARE = 0.125
"""Of the rows, those whose outlines overlap most: more, for outlines tell shapes besides."""
_CELLS = 8
"""Sides of the grid that outlines are compared on."""
_LEAST_DIFFERENCE = 40
"""From the border's color, summed over channels of 255, that is not taken for it."""
_BLOCK = 256


def some_rows(num_rows: int, seed: int) -> Int64[np.ndarray, " row"]:
    """Name all rows of a database, or of a large one some at random, rising."""
    if num_rows <= _MOST_ROWS:
        return np.arange(num_rows)
    random = np.random.default_rng(seed)
    return np.sort(random.choice(num_rows, _MOST_ROWS, replace=False))


def pixels_of(
    uri: str, rows: Int64[np.ndarray, " row"], size: int
) -> UInt8[np.ndarray, "row size size 3"]:
    """Read what rows of a database show.

    Raises:
        SpecError: Its pictures are of another size.
        DatabaseError: It keeps no pixels, or a file of it is damaged.
    """
    database = Database.open(uri)
    (first,) = database.images(rows[:1])
    if first.shape[0] != size:
        raise SpecError(
            "database",
            f"{uri} keeps pictures of {first.shape[0]} x {first.shape[0]}",
            f"{size} x {size}, as the autoencoder takes them (--store-images {size})",
        )
    return np.stack(database.images(rows))


def content_of(
    queries: Float32[np.ndarray, "image dim"],
    pixels: UInt8[np.ndarray, "image height width 3"],
    embeddings: Float32[np.ndarray, "row dim"],
    shown: UInt8[np.ndarray, "row height width 3"],
) -> Float32[np.ndarray, "image dim"]:
    """Leave of embeddings of pictures what those that look like them do not have in common.

    Args:
        queries: Embeddings of the pictures.
        pixels: The pictures.
        embeddings: Of rows of a database.
        shown: What the rows show.
    """
    rows = _unit(embeddings)
    mean = rows.mean(axis=0)
    own, other = _colors(pixels), _colors(shown)
    outlines, others = _outlines(pixels), _outlines(shown)
    lengths = (other**2).sum(axis=1)
    content = _unit(queries)
    for first in range(0, len(queries), _BLOCK):
        block = slice(first, first + _BLOCK)
        apart = lengths - 2 * own[block] @ other.T
        content[block] -= _mean_of_least(apart, rows, _COLORS_SHARE) - mean
        overlap = outlines[block] @ others.T
        content[block] -= _mean_of_least(-overlap, rows, _PLACE_SHARE) - mean
    return content


def _mean_of_least(
    distances: Float32[np.ndarray, "image row"],
    embeddings: Float32[np.ndarray, "row dim"],
    share: float,
) -> Float32[np.ndarray, "image dim"]:
    """Give the mean embedding of the share of the rows that is nearest."""
    count = max(1, round(share * len(embeddings)))
    nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
    return np.stack([embeddings[np.sort(rows)].mean(axis=0) for rows in nearest])


def _colors(images: UInt8[np.ndarray, "n height width 3"]) -> Float32[np.ndarray, "n value"]:
    return images.reshape(len(images), -1).astype(np.float32)


def _outlines(images: UInt8[np.ndarray, "n height width 3"]) -> Float32[np.ndarray, "n cell"]:
    """Give the share of every cell that is not of the border's color, as vectors of length 1."""
    whole = images.astype(np.float32)
    border = np.concatenate([whole[:, 0], whole[:, -1], whole[:, :, 0], whole[:, :, -1]], axis=1)
    color = np.median(border, axis=1)[:, None, None]
    differs = np.abs(whole - color).sum(axis=3) > _LEAST_DIFFERENCE
    parts = [
        part.mean(axis=(1, 2))
        for line in np.array_split(differs, _CELLS, axis=1)
        for part in np.array_split(line, _CELLS, axis=2)
    ]
    return _unit(np.stack(parts, axis=1).astype(np.float32))


def _unit(vectors: Float32[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n dim"]:
    unit: Float32[np.ndarray, "n dim"] = vectors / np.maximum(
        np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6
    )
    return unit
