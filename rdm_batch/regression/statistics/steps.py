"""Where a history of nights takes a step that persists, and what its levels are.

Night after night the last two, three, ... nights are held against those before them. A night counts
by how many standard deviations it lies from the level before, but never by more than ``CLIP``: one
bad night cannot raise an alarm, however bad it is, and two have to be bad alike. The sum over the
candidate nights, in units of its own standard deviation, is the statistic; where its largest over
all candidate splits passes the threshold there is a step, at the split that was largest. The nights
before a step are then forgotten, and the search begins anew at its first night.

That is a window-limited generalized likelihood ratio test (Lai 1995) with Huber's clipped scores.
It decides a night when it comes, from what was known then, and later nights never take that back.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.special
from jaxtyping import Float64

from rdm_batch.errors import RegressionError

CLIP = 3.5
"""Standard deviations that a single night counts for at most: below the threshold."""
_MAD = 1.4826
"""Of a normal distribution, standard deviations over median absolute deviations."""
_TRIM = 3.0
"""Deviations beyond these many (by the median deviation) are cut before their spread is taken."""
_LEAST_SPREAD = 1e-3
"""Of a level. Series that repeat exactly would otherwise find steps in their last digit."""


@dataclass(frozen=True)
class StepRule:
    """Say what counts as a step.

    Args:
        threshold: Of the statistic, in standard deviations of a normal distribution. Where fewer
            nights are known than would make it one, Student's t with the same tail.
        before: Nights that a level rests on at most.
        least_before: And at least: with fewer nothing is decided.
        after: Largest number of nights held against those before.
        least_after: And smallest.
        least_change: Smallest change that counts, as a part of the level before.
    """

    threshold: float = 4.0
    before: int = 60
    least_before: int = 10
    after: int = 14
    least_after: int = 2
    least_change: float = 0.02


@dataclass(frozen=True)
class Step:
    """Hold a change of level.

    Args:
        at: Number of the first night of the new level, from 0.
        noticed: Number of the night that told.
        before: Level before it.
        after: Median of the nights from ``at`` to ``noticed``.
        strength: The statistic; above 0 where values rose.
    """

    at: int
    noticed: int
    before: float
    after: float
    strength: float

    @property
    def change(self) -> float:
        """Return the change as a part of the level before."""
        return self.after / self.before - 1


@dataclass(frozen=True)
class Level:
    """Hold a stretch of nights without a step: first night, last night, and their median."""

    first: int
    last: int
    value: float


def find_steps(values: Float64[np.ndarray, " nights"], rule: StepRule | None = None) -> list[Step]:
    """Find the steps of a history, in order.

    Deterministic, and the steps of a longer history begin with those of a shorter one.

    Args:
        values: Of one figure, in the order of the nights, above 0; nights that have none are left
            out by the caller.
        rule: What counts as a step.

    Raises:
        RegressionError: A value is not finite or not above 0.
    """
    rule = rule or StepRule()
    if not (np.isfinite(values).all() and (values > 0).all()):
        where = int(np.flatnonzero(~(np.isfinite(values) & (values > 0)))[0])
        found = f"value {values[where]} of night {where}"
        raise RegressionError("steps of a history", found, "finite values above 0")
    steps: list[Step] = []
    start = 0
    for night in range(len(values)):
        step = _step_told_by(values[: night + 1], start, rule)
        if step is not None:
            steps.append(step)
            start = step.at
    return steps


def levels(values: Float64[np.ndarray, " nights"], steps: list[Step]) -> list[Level]:
    """Give the stretches between steps."""
    edges = [0, *(step.at for step in steps), len(values)]
    return [
        Level(first, end - 1, float(np.median(values[first:end])))
        for first, end in pairwise(edges)
        if end > first
    ]


def _step_told_by(
    values: Float64[np.ndarray, " nights"], start: int, rule: StepRule
) -> Step | None:
    """Say whether the last night makes a step of what came since ``start``."""
    known = len(values) - start
    most = min(rule.after, known - rule.least_before)
    if most < rule.least_after:
        return None
    counts = np.arange(rule.least_after, most + 1)
    length = min(rule.before, known - most)
    # One row of nights before each candidate split, all of one length.
    windows = np.lib.stride_tricks.sliding_window_view(values, length)
    before = windows[len(values) - counts - length]
    middle, spread = _robust(before)
    scores = np.clip((values[-most:] - middle[:, None]) / spread[:, None], -CLIP, CLIP)
    taken = np.arange(most) >= most - counts[:, None]
    sums = np.where(taken, scores, 0.0).sum(axis=1)
    # The level itself is known to a standard error of 1 / sqrt(length) of a night.
    strengths = sums / np.sqrt(counts + counts**2 / length)
    best = int(np.argmax(np.abs(strengths)))
    if abs(strengths[best]) < _threshold(rule.threshold, length - 1):
        return None
    at = len(values) - int(counts[best])
    after = float(np.median(values[at:]))
    if abs(after / middle[best] - 1) < rule.least_change:
        return None
    return Step(at, len(values) - 1, float(middle[best]), after, float(strengths[best]))


def _robust(
    rows: Float64[np.ndarray, "rows nights"],
) -> tuple[Float64[np.ndarray, " rows"], Float64[np.ndarray, " rows"]]:
    """Give the level and the spread of each row, whatever single nights do.

    One step from median and median deviation to mean and standard deviation, of deviations cut at
    ``_TRIM``: of normal values nearly as good as these.
    """
    median = np.median(rows, axis=1, keepdims=True)
    apart = rows - median
    width = _TRIM * _MAD * np.median(np.abs(apart), axis=1, keepdims=True)
    width = np.maximum(width, _TRIM * _LEAST_SPREAD * np.abs(median))
    cut = np.clip(apart, -width, width)
    spread = np.maximum(cut.std(axis=1, ddof=1), _LEAST_SPREAD * np.abs(median[:, 0]))
    return median[:, 0] + cut.mean(axis=1), spread


def _threshold(normal: float, freedom: int) -> float:
    """Give the quantile of Student's t with the tail of a normal quantile."""
    return float(-scipy.special.stdtrit(freedom, scipy.special.ndtr(-normal)))
