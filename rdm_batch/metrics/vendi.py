"""Effective number of different samples (Friedman and Dieng 2023, arXiv:2210.02410)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.pairwise import blocks
from rdm_batch.metrics.resampling import Estimate

_AT_ONCE = 4_096
# Eigenvalues below this part of the largest are rounding noise.
_ROUNDING = 1e-12


def vendi_score(features: Float32[np.ndarray, "n d"]) -> Estimate:
    """Compute the exponential of the entropy of the eigenvalues of ``K / n``.

    K holds the cosines of all pairs of samples. The eigenvalues of ``K / n`` that are not zero
    are those of ``S = X^T X / n``, X the rows brought to length 1: whichever is smaller is
    decomposed, so that all samples count at a cost of ``n d min(n, d)`` and no subset is drawn.
    A little more weight on x moves the entropy by ``-x^T log(S) x`` less its mean.

    With fewer samples than dimensions the score grows with their number.

    Args:
        features: Features, two rows or more.

    Raises:
        MetricError: A row is zero or not finite, so that it has no cosine.
    """
    lengths = np.linalg.norm(features.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if bad.size:
        raise MetricError(
            "vendi",
            f"{bad.size:,} of {len(features):,} feature rows have no direction, row {bad[0]} first",
            "finite features that are not zero",
            "look at the images of these rows",
        )
    count, dim = features.shape
    if count < dim:
        unit = features / lengths[:, None]
        values, vectors = _decompose(unit @ unit.T / count)
        # x_i along eigenvector k of S is sqrt(n value_k) times entry i of eigenvector k of K / n.
        surprise = np.square(vectors) @ (-count * values * np.log(values))
    else:
        scatter = np.zeros((dim, dim))
        for part in blocks(count, _AT_ONCE):
            unit = features[part] / lengths[part, None]
            scatter += unit.T @ unit
        values, vectors = _decompose(scatter / count)
        surprise = np.empty(count)
        for part in blocks(count, _AT_ONCE):
            along = (features[part] / lengths[part, None]) @ vectors
            surprise[part] = np.square(along) @ -np.log(values)
    score = float(np.exp(-(values @ np.log(values))))
    return Estimate(score, score * (surprise - surprise.mean()))


def _decompose(
    matrix: Float64[np.ndarray, "r r"],
) -> tuple[Float64[np.ndarray, " rank"], Float64[np.ndarray, "r rank"]]:
    """Give the eigenvalues above rounding noise, and their eigenvectors."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > _ROUNDING * values[-1]
    return values[kept], vectors[:, kept]
