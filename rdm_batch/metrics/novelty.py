"""How far samples are from what they were made from: how much is copied, how much is new.

Distances are ``1 - cosine`` in the space the database is searched in. A sample at distance 0
of a database entry is, to that encoder, a copy of it. The same distance for held-out images
says what independent pictures of the same world score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from rdm_batch.errors import MetricError
from rdm_batch.specs.scores import SCORES, Distances

COPY_PART = 0.01
"""Part of independent pictures that lies near enough to be taken for copies."""


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
        held_out_digest: Which images these are. None where it is not known.
    """

    database: str
    neighbors: Float64[np.ndarray, " n"] | None = None
    neighbor_ids: Int64[np.ndarray, " n"] | None = None
    nearest: Float64[np.ndarray, " n"] | None = None
    nearest_ids: Int64[np.ndarray, " n"] | None = None
    held_out: Float64[np.ndarray, " m"] | None = None
    held_out_digest: str | None = None

    def of(self, which: Distances) -> Float64[np.ndarray, " _"] | None:
        """Return the distances a score is made of."""
        known = {"neighbors": self.neighbors, "nearest": self.nearest, "held_out": self.held_out}
        return known[which]


def copies(
    neighbors: Float64[np.ndarray, " n"], held_out: Float64[np.ndarray, " m"]
) -> Bool[np.ndarray, " n"]:
    """Say which samples are nearer to what they were made from than independent pictures are.

    A sample counts when its distance to the nearest of its own conditioning neighbors is smaller
    than that of the held-out image at rank ``ceil(m / 100)`` to the nearest database entry, the
    nearest image ranking first. That entry is the nearest of the neighbors a search with the
    image itself would give, so both sides are distances to one's own neighbors, and of held-out
    images at most one in a hundred counts.

    Args:
        neighbors: Of each sample to the nearest of its own conditioning neighbors.
        held_out: Of each held-out image to the nearest database entry; a hundred or more.

    Raises:
        MetricError: There are too few held-out images to have a nearest hundredth.
    """
    least = SCORES["copy_share"].least_reference
    if len(held_out) < least:
        raise MetricError("copy_share", f"{len(held_out):,} held-out images", f"{least} or more")
    rank = math.ceil(len(held_out) * COPY_PART)
    nearer: Bool[np.ndarray, " n"] = neighbors < np.partition(held_out, rank - 1)[rank - 1]
    return nearer
