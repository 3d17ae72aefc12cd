"""Precision, recall, density and coverage, from one pass over all pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rdm_batch.metrics.manifold import BallCounts, BallQuestion, empty_counts, merge_counts
from rdm_batch.metrics.neighbors import (
    NearestDistances,
    TilePair,
    merge_smallest,
    require_more_than,
    tile_pairs,
)
from rdm_batch.metrics.pairwise import DEFAULT_BLOCK_SIZE, blocks
from rdm_batch.metrics.tasks import HERE, TaskRunner, share_out


@dataclass(frozen=True)
class PrecisionRecall:
    """Hold who lies in whose manifold (Kynkaanniemi et al. 2019, arXiv:1904.06991).

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


@dataclass(frozen=True)
class DensityCoverage:
    """Hold how densely the reference manifold is met (Naeem et al. 2020, arXiv:2002.09797).

    Args:
        balls: For each generated sample, how many reference balls hold it.
        covered: For each reference sample, whether its ball holds a generated sample.
        k: Neighborhood size.
    """

    balls: Int64[np.ndarray, " n"]
    covered: Bool[np.ndarray, " m"]
    k: int

    @property
    def density(self) -> float:
        """Return the mean number of balls around a generated sample, in units of k."""
        return float(self.balls.mean()) / self.k

    @property
    def coverage(self) -> float:
        """Return the share of reference balls with a generated sample inside."""
        return float(self.covered.mean())


@dataclass(frozen=True)
class ManifoldScores:
    """Hold what one pass gave; None for what was not asked for."""

    precision_recall: PrecisionRecall | None
    density_coverage: DensityCoverage | None


def manifold_scores(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    precision_k: int | None = 3,
    density_k: int | None = None,
    block_size: int = DEFAULT_BLOCK_SIZE,
    runner: TaskRunner = HERE,
) -> ManifoldScores:
    """Compute precision and recall, density and coverage, or all four.

    Ties as in the reference implementations: for precision and recall a distance equal to
    the radius is inside, for density and coverage it is not.

    Args:
        generated: Generated features.
        reference: Reference features.
        precision_k: Neighborhood size of precision and recall. None leaves them out.
        density_k: Neighborhood size of density and coverage. None leaves them out.
        block_size: Rows and columns of one tile; bounds memory, never changes a result.
        runner: Where parts of the passes are computed.

    Raises:
        MetricError: A set has no more samples than its neighborhood.
    """
    asked = [k for k in (precision_k, density_k) if k is not None]
    require_more_than(len(reference), max(asked))
    reference_radii = squared_radii(reference, asked, block_size, runner)
    questions = []
    if precision_k is not None:
        require_more_than(len(generated), precision_k)
        (radii,) = squared_radii(generated, [precision_k], block_size, runner)
        questions += [
            BallQuestion("column", reference_radii[0], "row", strict=False, any_only=True),
            BallQuestion("row", radii, "column", strict=False, any_only=True),
        ]
    if density_k is not None:
        questions += [
            BallQuestion("column", reference_radii[-1], "row", strict=True, any_only=False),
            BallQuestion("column", reference_radii[-1], "column", strict=True, any_only=True),
        ]
    counts = iter(ball_counts(generated, reference, tuple(questions), block_size, runner))
    return ManifoldScores(
        None if precision_k is None else PrecisionRecall(next(counts) > 0, next(counts) > 0),
        None
        if density_k is None
        else DensityCoverage(balls=next(counts), covered=next(counts) > 0, k=density_k),
    )


def squared_radii(
    features: Float32[np.ndarray, "n d"],
    ks: Sequence[int],
    block_size: int = DEFAULT_BLOCK_SIZE,
    runner: TaskRunner = HERE,
) -> list[Float64[np.ndarray, " n"]]:
    """Compute the squared distance of each row to its k-th nearest other row, for each k.

    The (k + 1)-th smallest distance with the row itself counted, as the reference
    implementations have it: duplicates of a row count as neighbors.

    Args:
        features: The whole set, of more rows than any k.
        ks: Neighborhood sizes.
        block_size: Rows and columns of one tile.
        runner: Where parts are computed.
    """
    count = max(ks) + 1
    smallest = np.full((len(features), count), np.inf)
    task = partial(_nearest, count=count)
    pairs = share_out(tile_pairs(len(features), block_size), runner.num_tasks)
    for part in runner(task, (features,), pairs):
        smallest = merge_smallest(smallest, part)
    return [smallest[:, k].copy() for k in ks]


def _nearest(
    features: Float32[np.ndarray, "n d"], pairs: Sequence[TilePair], *, count: int
) -> Float64[np.ndarray, "n count"]:
    nearest = NearestDistances(features, count)
    nearest.update(pairs)
    return nearest.smallest


def ball_counts(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    questions: tuple[BallQuestion, ...],
    block_size: int,
    runner: TaskRunner,
) -> Sequence[Int64[np.ndarray, " _"]]:
    """Answer ball questions over all pairs of two sets.

    Args:
        generated: Rows.
        reference: Columns.
        questions: What to count.
        block_size: Rows and columns of one tile; bounds memory, never changes a result.
        runner: Where blocks of rows are compared.

    Returns:
        Counts per row or column, by question.
    """
    task = partial(_balls, questions=questions, block_size=block_size)
    rows = share_out(list(blocks(len(generated), block_size)), runner.num_tasks)
    total = empty_counts(questions, len(generated), len(reference))
    for part in runner(task, (generated, reference), rows):
        merge_counts(questions, total, part)
    return total


def _balls(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    rows: Sequence[slice],
    *,
    questions: tuple[BallQuestion, ...],
    block_size: int,
) -> Sequence[Int64[np.ndarray, " _"]]:
    counts = BallCounts(generated, reference, questions, block_size)
    for part in rows:
        counts.update(part)
    return counts.counts
