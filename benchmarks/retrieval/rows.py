"""Make rows and queries that are as hard to search as embeddings of images and texts are.

Rows around separate centers are easy: whoever finds the center has found the neighbors, and an
index shows a recall of 1.0 whatever its settings. Rows on a curved manifold of fewer dimensions
than the space have neighbors on both sides of every border between leaves.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float32

Kind = Literal["clustered", "manifold"]
KINDS: tuple[Kind, ...] = ("clustered", "manifold")
_LATENT = 48
_BLOCK = 16_384


def with_lengths(
    points: Float32[np.ndarray, "rows dim"], random: np.random.Generator
) -> Float32[np.ndarray, "rows dim"]:
    """Scale vectors to norms of about 10, as raw CLIP embeddings have."""
    lengths = random.uniform(8.5, 11.5, size=(len(points), 1)).astype(np.float32)
    scaled: Float32[np.ndarray, "rows dim"] = (
        points / np.linalg.norm(points, axis=1, keepdims=True) * lengths
    )
    return scaled


def clustered(
    rows: int, dim: int, random: np.random.Generator, centers: Float32[np.ndarray, "centers dim"]
) -> Float32[np.ndarray, "rows dim"]:
    """Draw vectors around shared centers."""
    points = centers[random.integers(0, len(centers), rows)]
    points = points + 0.6 * random.normal(size=(rows, dim)).astype(np.float32)
    return with_lengths(points, random)


class Rows:
    """A distribution that rows of a database and held-out queries are drawn from.

    Args:
        kind: ``clustered`` around separate centers, one for 250 rows, or on a ``manifold``: a
            curved image of 48 dimensions of falling width, with a little noise around it.
        rows: Rows the database will have.
        dim: Width of a row.
        seed: Of the distribution; rows and queries have their own.
    """

    def __init__(self, kind: Kind, rows: int, dim: int, seed: int = 0) -> None:
        random = np.random.default_rng((seed, 7))
        self._kind = kind
        self._dim = dim
        self._centers = random.normal(size=(max(20, rows // 250), dim)).astype(np.float32)
        wide = 2 * _LATENT
        self._bend = random.normal(size=(_LATENT, wide)).astype(np.float32) / _LATENT**0.5
        self._phase = random.uniform(-1, 1, wide).astype(np.float32)
        # Spectra of embeddings fall: few directions hold most of the variance.
        self._widths = np.arange(1, _LATENT + 1, dtype=np.float32) ** -0.5 * 4
        self._spread = random.normal(size=(wide, dim)).astype(np.float32) / wide**0.5

    def draw(self, rows: int, seed: int) -> Float32[np.ndarray, "rows dim"]:
        """Draw rows, in blocks, so that nothing larger than the answer is held."""
        random = np.random.default_rng((seed, 11))
        drawn = np.empty((rows, self._dim), dtype=np.float32)
        for start in range(0, rows, _BLOCK):
            count = min(_BLOCK, rows - start)
            if self._kind == "clustered":
                drawn[start : start + count] = clustered(count, self._dim, random, self._centers)
                continue
            latent = random.standard_normal((count, _LATENT), dtype=np.float32) * self._widths
            points = np.tanh(latent @ self._bend + self._phase) @ self._spread
            noise = random.standard_normal((count, self._dim), dtype=np.float32)
            points += 0.1 * self._dim**-0.5 * noise
            drawn[start : start + count] = with_lengths(points, random)
        return drawn
