"""How well images follow their prompts (CLIP-score, Hessel et al. 2021, arXiv:2104.08718)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64

SCALE = 100.0


def clip_scores(
    images: Float32[np.ndarray, "n d"], texts: Float32[np.ndarray, "n d"]
) -> Float64[np.ndarray, " n"]:
    """Compute ``100 max(cos, 0)`` for each image and its own text.

    Note: The paper scales by 2.5; 100 is what implementations print.

    Args:
        images: Image embeddings, normalized or not.
        texts: Embedding of each image's prompt, by the same encoder.
    """
    scores: Float64[np.ndarray, " n"] = SCALE * np.maximum(row_cosines(images, texts), 0)
    return scores


def row_cosines(
    first: Float32[np.ndarray, "n d"], second: Float32[np.ndarray, "n d"]
) -> Float64[np.ndarray, " n"]:
    """Compute the cosine of each row with the same row of another array; 0 for zero rows."""
    x, y = first.astype(np.float64), second.astype(np.float64)
    norms = np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum(axis=1))
    products = (x * y).sum(axis=1)
    cosines: Float64[np.ndarray, " n"] = np.divide(
        products, norms, out=np.zeros_like(products), where=norms > 0
    )
    return cosines
