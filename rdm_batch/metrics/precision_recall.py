"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64

from rdm_batch.metrics.manifold import BallCounts, BallQuestion
from rdm_batch.metrics.neighbors import squared_radii
from rdm_batch.metrics.pairwise import DEFAULT_BLOCK_SIZE


@dataclass(frozen=True)
class PrecisionRecall:
    """Hold who lies in whose manifold.

    Args:
        generated_inside: For each generated sample, whether a reference sample's ball holds it.
        reference_inside: For each reference sample, whether a generated sample's ball holds it.
    """

    generated_inside: Bool[np.ndarray, " n"]
    reference_inside: Bool[np.ndarray, " m"]

    @property
    def precision(self) -> float:
        """Return the share of generated samples in the reference manifold."""
        return float(self.generated_inside.mean())

    @property
    def recall(self) -> float:
        """Return the share of reference samples in the generated manifold."""
        return float(self.reference_inside.mean())


def precision_recall_counts(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    generated_radii: Float64[np.ndarray, " n"],
    reference_radii: Float64[np.ndarray, " m"],
    block_size: int = DEFAULT_BLOCK_SIZE,
) -> BallCounts:
    """Return the accumulator of precision (rows) and recall (columns).

    Update it with ranges of generated rows, merge, and finalise with
    ``finalise_precision_recall``. A distance equal to the radius is inside.

    Args:
        generated: Generated features, the rows.
        reference: Reference features, the columns.
        generated_radii: Squared radii of the generated samples (``squared_radii``).
        reference_radii: Squared radii of the reference samples.
        block_size: Rows and columns of one tile.
    """
    questions = (
        BallQuestion("column", reference_radii, "row", strict=False, any_only=True),
        BallQuestion("row", generated_radii, "column", strict=False, any_only=True),
    )
    return BallCounts(generated, reference, questions, block_size)


def finalise_precision_recall(counts: BallCounts) -> PrecisionRecall:
    """Turn counts over all pairs into memberships."""
    rows, columns = counts.counts
    return PrecisionRecall(rows > 0, columns > 0)


def precision_recall(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    k: int = 3,
    block_size: int = DEFAULT_BLOCK_SIZE,
) -> PrecisionRecall:
    """Compute improved precision and recall in this process.

    Args:
        generated: Generated features.
        reference: Reference features.
        k: Neighborhood size.
        block_size: Rows and columns of one tile; bounds memory, never changes the result.

    Raises:
        MetricError: A set has k samples or fewer.
    """
    counts = precision_recall_counts(
        generated,
        reference,
        squared_radii(generated, k, block_size=block_size),
        squared_radii(reference, k, block_size=block_size),
        block_size,
    )
    counts.update()
    return finalise_precision_recall(counts)
