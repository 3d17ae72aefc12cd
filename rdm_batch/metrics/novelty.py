"""How far samples are from what they were made from: how much is copied, how much is new.

Distances are ``1 - cosine`` in the space the database is searched in. A sample at distance 0
of a database entry is, to that encoder, a copy of it. The same distance for held-out images
says what independent pictures of the same world score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from rdm_batch.specs.scores import Distances


@dataclass(frozen=True)
class NoveltyDistances:
    """Hold distances to the nearest of several things; None for what was not measured.

    Args:
        database: Digest of the database.
        neighbors: Of each sample to the nearest of its own conditioning neighbors.
        neighbor_ids: That neighbor's row id.
        nearest: Of each sample to the nearest database entry.
        nearest_ids: That entry's row id.
        held_out: Of each held-out image to the nearest database entry.
    """

    database: str
    neighbors: Float64[np.ndarray, " n"] | None = None
    neighbor_ids: Int64[np.ndarray, " n"] | None = None
    nearest: Float64[np.ndarray, " n"] | None = None
    nearest_ids: Int64[np.ndarray, " n"] | None = None
    held_out: Float64[np.ndarray, " m"] | None = None

    def of(self, which: Distances) -> Float64[np.ndarray, " _"] | None:
        """Return the distances a score is the mean of."""
        known = {"neighbors": self.neighbors, "nearest": self.nearest, "held_out": self.held_out}
        return known[which]
