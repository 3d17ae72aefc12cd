"""Which samples lie in the k-nearest-neighbor balls of another set, exact and blockwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rdm_batch.metrics.pairwise import (
    DEFAULT_BLOCK_SIZE,
    FeatureRows,
    Tile,
    blocks,
    center_of,
)

Axis = Literal["row", "column"]


@dataclass(frozen=True)
class BallQuestion:
    """Ask, of every row or column, how many balls relate to it.

    Args:
        radii_of: Whose radii decide: a pair counts when its squared distance is within the squared
            radius of its row, or of its column.
        squared_radii: One per row or column of the whole sets.
        counted_for: Whether hits are counted per row or per column.
        strict: Whether a distance must be smaller than the radius (density, coverage) or may be
            equal to it (precision, recall).
        any_only: Whether it is enough to know that there is a hit; counts stop at 1.
    """

    radii_of: Axis
    squared_radii: Float64[np.ndarray, " r"]
    counted_for: Axis
    strict: bool
    any_only: bool


class BallCounts:
    """Answer ball questions over tiles of two sets.

    Any set of tiles that covers each pair once gives the same counts; ``merge_counts`` merges
    those of objects over different rows of the same two sets.

    Args:
        rows: First set.
        columns: Second set.
        questions: What to count.
        block_size: Rows and columns of one tile.
    """

    def __init__(
        self,
        rows: Float32[np.ndarray, "n d"],
        columns: Float32[np.ndarray, "m d"],
        questions: tuple[BallQuestion, ...],
        block_size: int = DEFAULT_BLOCK_SIZE,
    ) -> None:
        center = center_of(columns)
        self._rows = FeatureRows(rows, center)
        self._columns = FeatureRows(columns, center)
        self._questions = questions
        self._block_size = block_size
        self.counts = empty_counts(questions, len(rows), len(columns))

    def update(self, rows: slice = slice(None)) -> None:
        """Look at the pairs of a range of rows with every column."""
        start, stop, _ = rows.indices(len(self._rows))
        for block in blocks(stop - start, self._block_size):
            row_slice = slice(start + block.start, start + block.stop)
            side = self._rows.side(row_slice)
            for column_slice in blocks(len(self._columns), self._block_size):
                tile = Tile(side, self._columns.side(column_slice))
                for question, counts in zip(self._questions, self.counts, strict=True):
                    self._answer(tile, question, counts, row_slice, column_slice)

    def _answer(
        self,
        tile: Tile,
        question: BallQuestion,
        counts: Int64[np.ndarray, " c"],
        row_slice: slice,
        column_slice: slice,
    ) -> None:
        by_row = question.radii_of == "row"
        radii = question.squared_radii[row_slice if by_row else column_slice]
        for_row = question.counted_for == "row"
        hits = counts[row_slice if for_row else column_slice]
        open_ = hits == 0 if question.any_only else None
        if open_ is not None:
            if not open_.any():
                return
            open_ = open_[:, None] if for_row else open_[None, :]
        i, j = tile.below(radii[:, None] if by_row else radii[None, :], open_)
        while len(i):
            limit = radii[i] if by_row else radii[j]
            lower, upper = tile.bounds(i, j)
            sure = _within(upper, limit, question.strict)
            _count(hits, (i if for_row else j)[sure], question.any_only)
            undecided = ~sure & _within(lower, limit, question.strict)
            if question.any_only:
                undecided &= hits[i if for_row else j] == 0
            i, j, lower, limit = i[undecided], j[undecided], lower[undecided], limit[undecided]
            if not tile.should_refine(len(i)):
                break
            tile = tile.in_double()
        order = np.argsort(lower - limit, kind="stable") if len(i) else i
        for chosen in blocks(len(order), max(len(hits), 1)):
            part = order[chosen]
            if question.any_only:
                part = part[hits[(i if for_row else j)[part]] == 0]
            distances = tile.distances(i[part], j[part])
            inside = _within(distances, limit[part], question.strict)
            _count(hits, (i if for_row else j)[part][inside], question.any_only)


def empty_counts(
    questions: Sequence[BallQuestion], num_rows: int, num_columns: int
) -> list[Int64[np.ndarray, " _"]]:
    """Make counts of no tiles at all."""
    lengths = {"row": num_rows, "column": num_columns}
    return [np.zeros(lengths[question.counted_for], dtype=np.int64) for question in questions]


def merge_counts(
    questions: Sequence[BallQuestion],
    total: Sequence[Int64[np.ndarray, " _"]],
    part: Sequence[Int64[np.ndarray, " _"]],
) -> None:
    """Add the counts of other tiles, in place."""
    for question, mine, theirs in zip(questions, total, part, strict=True):
        mine += theirs
        if question.any_only:
            np.minimum(mine, 1, out=mine)


def _within(
    distances: Float64[np.ndarray, " pairs"], limit: Float64[np.ndarray, " pairs"], strict: bool
) -> Bool[np.ndarray, " pairs"]:
    return distances < limit if strict else distances <= limit


def _count(
    hits: Int64[np.ndarray, " c"], positions: Int64[np.ndarray, " pairs"], any_only: bool
) -> None:
    if any_only:
        hits[positions] = 1
    else:
        hits += np.bincount(positions, minlength=len(hits))
