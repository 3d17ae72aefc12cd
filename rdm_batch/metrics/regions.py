"""Where in feature space two sets lie: a plane to look at, and regions of the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rdm_batch.metrics.pairwise import blocks

_POWER_STEPS = 12
_DIRECTIONS = 8
_LLOYD_STEPS = 12
# Rows the first centers are chosen from: every center costs a pass over them.
_SEED_ROWS = 4096
_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class Plane:
    """Hold two sets projected on the first two principal directions of the reference.

    Args:
        generated: Place of each sample.
        reference: Place of each reference image.
        explained: Share of the reference's variance that lies in the plane.
    """

    generated: Float64[np.ndarray, "n 2"]
    reference: Float64[np.ndarray, "m 2"]
    explained: float


@dataclass(frozen=True)
class Region:
    """Hold one region of the reference: what is nearer to its center than to any other.

    Args:
        generated: Rows of the samples in it, nearest to the center first.
        reference: Rows of the reference images in it, likewise; at least one.
    """

    generated: Int64[np.ndarray, " g"]
    reference: Int64[np.ndarray, " r"]


def principal_plane(
    generated: Float32[np.ndarray, "n d"], reference: Float32[np.ndarray, "m d"], seed: int = 0
) -> Plane:
    """Project two sets on the plane in which the reference varies most.

    The plane is found by subspace iteration, which needs no covariance matrix.

    Args:
        generated: Features of the samples.
        reference: Features of the reference, two rows or more.
        seed: Seed of the directions the iteration starts from.
    """
    dim = reference.shape[1]
    mean = reference.mean(axis=0, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal((dim, min(_DIRECTIONS, dim)))
    directions, _ = np.linalg.qr(start)
    total = 0.0
    for _ in range(_POWER_STEPS):
        image, total = np.zeros_like(directions), 0.0
        for part in blocks(len(reference), _ROWS_PER_BLOCK):
            centered = reference[part] - mean
            image += centered.T @ (centered @ directions)
            total += float(np.square(centered).sum())
        directions, _ = np.linalg.qr(image)
    projected = (reference - mean) @ directions
    _, vectors = np.linalg.eigh(projected.T @ projected)
    plane = directions @ vectors[:, ::-1][:, :2]
    # Eigenvectors have no sign of their own; with one, the same sets give the same picture.
    plane *= np.where(plane[np.abs(plane).argmax(axis=0), range(plane.shape[1])] < 0, -1, 1)
    if plane.shape[1] < 2:
        plane = np.concatenate([plane, np.zeros((dim, 1))], axis=1)
    places = (reference - mean) @ plane
    explained = float(np.square(places).sum()) / total if total else 1.0
    return Plane((generated - mean) @ plane, places, min(1.0, explained))


def find_regions(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    count: int,
    seed: int = 0,
) -> list[Region]:
    """Cut the reference into regions by k-means and sort both sets into them.

    Lloyd's iteration from centers spread by k-means++ (Arthur & Vassilvitskii 2007).

    Args:
        generated: Features of the samples.
        reference: Features of the reference.
        count: Regions wanted; fewer come out where rows of the reference coincide.
        seed: Seed of the first centers.

    Returns:
        Regions that hold at least one reference image, in no particular order.
    """
    centers = _spread_centers(reference, count, np.random.default_rng(seed))
    for _ in range(_LLOYD_STEPS):
        chosen, _ = _nearest_center(reference, centers)
        moved = np.zeros_like(centers)
        np.add.at(moved, chosen, reference)
        sizes = np.bincount(chosen, minlength=len(centers))
        centers = moved[sizes > 0] / sizes[sizes > 0, None]
    mine, mine_at = _nearest_center(generated, centers)
    theirs, theirs_at = _nearest_center(reference, centers)
    return [
        Region(_in_order(mine, mine_at, number), _in_order(theirs, theirs_at, number))
        for number in range(len(centers))
        if (theirs == number).any()
    ]


def _spread_centers(
    rows: Float32[np.ndarray, "m d"], count: int, random: np.random.Generator
) -> Float64[np.ndarray, "c d"]:
    candidates = rows[np.sort(random.permutation(len(rows))[:_SEED_ROWS])].astype(np.float64)
    centers = [candidates[random.integers(len(candidates))]]
    distances = np.full(len(candidates), np.inf)
    while len(centers) < count:
        distances = np.minimum(distances, np.square(candidates - centers[-1]).sum(axis=1))
        total = distances.sum()
        if total == 0:
            break
        centers.append(candidates[random.choice(len(candidates), p=distances / total)])
    return np.stack(centers)


def _nearest_center(
    rows: Float32[np.ndarray, "n d"], centers: Float64[np.ndarray, "c d"]
) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Give the nearest center of each row and the squared distance to it."""
    chosen, distances = np.empty(len(rows), np.int64), np.empty(len(rows))
    norms = np.square(centers).sum(axis=1)
    for part in blocks(len(rows), _ROWS_PER_BLOCK):
        block = rows[part].astype(np.float64)
        relative = norms - 2 * block @ centers.T
        chosen[part] = relative.argmin(axis=1)
        distances[part] = relative.min(axis=1) + np.square(block).sum(axis=1)
    return chosen, distances


def _in_order(
    chosen: Int64[np.ndarray, " n"], distances: Float64[np.ndarray, " n"], number: int
) -> Int64[np.ndarray, " _"]:
    rows = np.flatnonzero(chosen == number)
    return rows[np.argsort(distances[rows], kind="stable")]
