"""Where in feature space two sets lie: a plane to look at, and regions of the reference."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float32, Float64, Int, Int64
from scipy.cluster.vq import kmeans2, vq

from rdm_batch.metrics.moments import gaussian_statistics

# Rows the first centers are chosen from: every center costs a pass over them.
_SEED_ROWS = 1024
_STEPS = 12


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
    generated: Float32[np.ndarray, "n d"], reference: Float32[np.ndarray, "m d"]
) -> Plane:
    """Project two sets on the plane in which the reference varies most.

    Args:
        generated: Features of the samples.
        reference: Features of the reference, two rows or more.
    """
    statistics = gaussian_statistics(reference)
    dim = len(statistics.mean)
    values, vectors = scipy.linalg.eigh(
        statistics.covariance, subset_by_index=(max(dim - 2, 0), dim - 1)
    )
    plane = vectors[:, ::-1]
    # Eigenvectors have no sign of their own; with one, the same sets give the same picture.
    plane *= np.where(plane[np.abs(plane).argmax(axis=0), range(plane.shape[1])] < 0, -1, 1)
    if dim < 2:
        plane = np.concatenate([plane, np.zeros((dim, 1))], axis=1)
    total = float(np.trace(statistics.covariance))
    explained = float(values.sum()) / total if total else 1.0
    offset = statistics.mean @ plane
    return Plane(generated @ plane - offset, reference @ plane - offset, min(1.0, explained))


def find_regions(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    count: int,
    seed: int = 0,
) -> list[Region]:
    """Cut the reference into regions by k-means and sort both sets into them.

    The first centers are spread by k-means++ (Arthur & Vassilvitskii 2007).

    Args:
        generated: Features of the samples.
        reference: Features of the reference.
        count: Regions wanted; fewer come out where rows of the reference coincide.
        seed: Seed of the first centers.

    Returns:
        Regions that hold at least one reference image, in no particular order.
    """
    # SciPy takes distances from products in float32, whose errors grow with the distance from zero.
    middle = reference.mean(axis=0)
    generated, reference = generated - middle, reference - middle
    random = np.random.default_rng(seed)
    chosen = np.unique(reference[random.permutation(len(reference))[:_SEED_ROWS]], axis=0)
    centers, _ = kmeans2(chosen, min(count, len(chosen)), iter=1, minit="++", rng=random)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        centers, _ = kmeans2(reference, centers, iter=_STEPS, minit="matrix")
    mine, mine_at = vq(generated, centers)
    theirs, theirs_at = vq(reference, centers)
    return [
        Region(_in_order(mine, mine_at, number), _in_order(theirs, theirs_at, number))
        for number in range(len(centers))
        if (theirs == number).any()
    ]


def _in_order(
    chosen: Int[np.ndarray, " n"], distances: Float[np.ndarray, " n"], number: int
) -> Int64[np.ndarray, " _"]:
    rows = np.flatnonzero(chosen == number)
    return rows[np.argsort(distances[rows], kind="stable")]
