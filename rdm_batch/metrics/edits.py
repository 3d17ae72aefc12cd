"""How well pictures were edited: did what was asked for happen, and did all else stay?

The direction of an edit in an image-text encoder: Gal et al. 2022 (StyleGAN-NADA,
arXiv:2108.00946), Eq. 3. Distances of unit features: as Zhang et al. 2018 (LPIPS,
arXiv:1801.03924) take them, of one layer and without learned weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Shaped, UInt8

from rdm_batch.metrics.clip_score import row_cosines

NEUTRAL_TEXT = "an image"
"""Stands for what a picture shows where nothing is said of it."""
BLOCKS = 8
"""Blocks on a side into which pictures are cut, to find what was left alone."""
CHANGED_BLOCKS = BLOCKS * BLOCKS // 4
"""Blocks that changed most and count as the edit: a quarter of the picture."""


@dataclass(frozen=True)
class EditData:
    """Hold what samples are edits of, in the order of the samples.

    Args:
        features: Features of each sample's source, by layer.
        names: Of each sample's source.
        texts: Embedding of what is said of each source. None where no score asks.
        outside: Distance of each sample from its source outside of the edit, as
            ``outside_distances`` gives it. None where no score asks.
    """

    features: dict[str, Float32[np.ndarray, "n _"]]
    names: tuple[str, ...]
    texts: Float32[np.ndarray, "n d"] | None = None
    outside: Float64[np.ndarray, " n"] | None = None


def edit_directions(
    images: Float32[np.ndarray, "n d"],
    sources: Float32[np.ndarray, "n d"],
    texts: Float32[np.ndarray, "n d"],
    source_texts: Float32[np.ndarray, "n d"],
) -> Float64[np.ndarray, " n"]:
    """Compute the cosine of the way from source to sample and the way between their texts.

    Embeddings are brought to length 1 before they are subtracted, as the authors' program does. A
    sample equal to its source, and a text equal to the source's, have no direction and score 0.

    Args:
        images: Embedding of each sample, by an image-text encoder.
        sources: Of its source.
        texts: Of its instruction.
        source_texts: Of what is said of its source.
    """
    # In double precision: the difference of units that are nearly alike is what counts.
    way, asked = _unit(images) - _unit(sources), _unit(texts) - _unit(source_texts)
    norms = np.linalg.norm(way, axis=1) * np.linalg.norm(asked, axis=1)
    products = (way * asked).sum(axis=1)
    cosines: Float64[np.ndarray, " n"] = np.divide(
        products, norms, out=np.zeros_like(products), where=norms > 0
    )
    return cosines


def feature_distances(
    images: Float32[np.ndarray, "n d"], sources: Float32[np.ndarray, "n d"]
) -> Float64[np.ndarray, " n"]:
    """Compute ``1 - cos`` of each sample and its source: half the squared distance of units."""
    return 1 - row_cosines(images, sources)


def outside_distances(
    images: UInt8[np.ndarray, "n height width 3"], sources: UInt8[np.ndarray, "n height width 3"]
) -> Float64[np.ndarray, " n"]:
    """Compute root mean square distances of pixels, of 255, outside of what was edited.

    Nobody draws a mask: the quarter of the blocks of a picture that changed most counts as the
    edit, whatever it is, and the others should have stayed.

    Args:
        images: Samples, at least ``BLOCKS`` pixels high and wide.
        sources: What each is an edit of.
    """
    squares = np.square(images.astype(np.float64) - sources.astype(np.float64)).sum(axis=3)
    count, height, width = squares.shape
    rows, columns = (np.arange(BLOCKS) * side // BLOCKS for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(squares, rows, axis=1), columns, axis=2)
    sizes = np.outer(np.diff([*rows, height]), np.diff([*columns, width])) * 3.0
    sums, flat = sums.reshape(count, -1), sizes.reshape(-1)
    # Blocks are equal but for a pixel; ties go to the first.
    kept = np.argsort(sums / flat, axis=1, kind="stable")[:, : BLOCKS * BLOCKS - CHANGED_BLOCKS]
    distances: Float64[np.ndarray, " n"] = np.sqrt(
        np.take_along_axis(sums, kept, axis=1).sum(axis=1) / flat[kept].sum(axis=1)
    )
    return distances


def grouped_error(
    values: Float64[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"]
) -> float | None:
    """Compute the standard error of a mean whose values come in groups; None for one group.

    Edits of one picture share what is easy or hard about it, so pictures are what was drawn:
    ``sqrt(G / (G - 1) sum_g (sum_{i in g} (v_i - mean))^2) / n`` (Liang and Zeger 1986). With one
    value a group it is the standard error of the mean.

    Args:
        values: Of every sample.
        groups: The group of each.
    """
    distinct, places = np.unique(groups, return_inverse=True)
    if len(distinct) < 2:
        return None
    sums = np.bincount(places, weights=values - values.mean())
    factor = len(distinct) / (len(distinct) - 1)
    return math.sqrt(factor * float(sums @ sums)) / len(values)


def _unit(rows: Float32[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
    exact = rows.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    unit: Float64[np.ndarray, "n d"] = np.divide(
        exact, norms, out=np.zeros_like(exact), where=norms > 0
    )
    return unit
