"""Sliced Wasserstein distance of feature sets (MIND, Berthet et al. 2026, arXiv:2605.06797)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rdm_batch.metrics.pairwise import blocks
from rdm_batch.metrics.resampling import Estimate
from rdm_batch.metrics.tasks import HERE, TaskRunner, share_out

PROJECTIONS = 1000
"""Directions the distance is averaged over, as in programs that follow the paper."""
SCALE_PER_DIMENSION = 3
"""The mean over directions is multiplied by this and the width of the features, as there."""
# Directions computed at once, whatever the number of workers: bounds memory to a few copies of
# 64 values a row, and keeps sums in one order.
_AT_ONCE = 64
_ROWS_AT_ONCE = 4_096


@dataclass(frozen=True)
class Coupling:
    """Match the sorted values of two sets of any sizes: optimal transport on a line.

    Args:
        own: Place among the n sorted values of one set, of every piece of mass.
        other: Place among the m sorted values it goes to.
        mass: How much goes there; the sum is 1.
        below: For every gap between neighboring values of the first set, the place in the other
            of the mass just below it.
        above: The same just above it.
    """

    own: Int64[np.ndarray, " pieces"]
    other: Int64[np.ndarray, " pieces"]
    mass: Float64[np.ndarray, " pieces"]
    below: Int64[np.ndarray, " gaps"]
    above: Int64[np.ndarray, " gaps"]

    @classmethod
    def of(cls, n: int, m: int) -> Coupling:
        """Match n values with m: level sets at multiples of ``1 / n`` and of ``1 / m``."""
        # In units of 1 / (n m), so that equal levels are equal integers.
        levels = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
        starts = np.concatenate([[0], levels[:-1]])
        between = np.arange(1, n) * m
        return cls(
            own=starts // m,
            other=starts // n,
            mass=(levels - starts) / (n * m),
            below=(between - 1) // n,
            above=between // n,
        )


def mind(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    projections: int = PROJECTIONS,
    seed: int = 2020,
    runner: TaskRunner = HERE,
) -> Estimate:
    """Compute the Monge inception distance: squared 2-Wasserstein distances of projections.

    ``3 d mean_u W2^2(u.x, u.y)`` over random directions u of length 1. On a line the transport
    matches sorted values; sets of different sizes are matched by quantiles, exactly, so nothing
    is left out. The influence of a sample is its Kantorovich potential (Santambrogio 2015, Prop.
    7.17): ``2 (t - T(t))`` integrated up to the sample's own value, T the transport, averaged
    over directions. Directions and reference are held fixed.

    Args:
        generated: Generated features, two rows or more.
        reference: Reference features.
        projections: Directions.
        seed: Seed of the directions; the same seed and width give the same directions.
        runner: Where directions are computed.
    """
    directions = np.random.RandomState(seed).standard_normal((projections, generated.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    numbered = list(enumerate(blocks(projections, _AT_ONCE)))
    costs = np.empty(len(numbered))
    potentials = np.empty((len(numbered), len(generated)))
    task = partial(_transport, coupling=Coupling.of(len(generated), len(reference)))
    items = share_out(numbered, runner.num_tasks)
    for part in runner(task, (generated, reference, directions), items):
        for number, cost, potential in part:
            costs[number], potentials[number] = cost, potential
    scale = SCALE_PER_DIMENSION * generated.shape[1] / projections
    return Estimate(scale * float(costs.sum()), scale * potentials.sum(axis=0))


def _transport(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    directions: Float64[np.ndarray, "projections d"],
    parts: Sequence[tuple[int, slice]],
    *,
    coupling: Coupling,
) -> list[tuple[int, float, Float64[np.ndarray, " n"]]]:
    """Sum squared distances and potentials over blocks of directions."""
    found = []
    for number, part in parts:
        values, others = (_project(rows, directions[part]) for rows in (generated, reference))
        others.sort(axis=0)
        order = np.argsort(values, axis=0, kind="stable")
        values = np.take_along_axis(values, order, axis=0)
        moved = values[coupling.own] - others[coupling.other]
        cost = float((coupling.mass @ np.square(moved)).sum())
        # Within a gap T is constant: halfway where the transport changes just there.
        towards = others[coupling.below] + others[coupling.above]
        steps = np.diff(values, axis=0) * (values[1:] + values[:-1] - towards)
        potential = np.zeros_like(values)
        np.cumsum(steps, axis=0, out=potential[1:])
        potential -= potential.mean(axis=0)
        placed = np.empty_like(potential)
        np.put_along_axis(placed, order, potential, axis=0)
        found.append((number, cost, placed.sum(axis=1)))
    return found


def _project(
    rows: Float32[np.ndarray, "n d"], directions: Float64[np.ndarray, "p d"]
) -> Float64[np.ndarray, "n p"]:
    values = np.empty((len(rows), len(directions)))
    for part in blocks(len(rows), _ROWS_AT_ONCE):
        values[part] = rows[part].astype(np.float64) @ directions.T
    return values
