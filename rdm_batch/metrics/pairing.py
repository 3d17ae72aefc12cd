"""Differences of scores of sets that share samples, with errors from what each sample does.

The influence of a sample is what a little more weight on it does to the score, times the number of
samples: the score moves by the mean of the influences of what is drawn. Where two sets share the
noise of a sample, what it does to both is alike, and cancels in their difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.special
from jaxtyping import Bool, Float32, Float64, Int64

from rdm_batch.errors import MetricError


@dataclass(frozen=True)
class Influences:
    """Hold what every judged image does to a score.

    Args:
        over: What the score is an average over: samples, or images of the reference (shares of
            the reference that samples reach; the manifold of the samples is then held fixed).
        ids: Index of each sample, or number of each image of the reference.
        values: Influence of each; their mean is zero.
    """

    over: Literal["samples", "reference"]
    ids: Int64[np.ndarray, " n"]
    values: Float64[np.ndarray, " n"]

    @property
    def error(self) -> float:
        """Return the standard error of the score itself, by the same influences."""
        return float(self.values.std(ddof=1)) / math.sqrt(len(self.values))


def paired_error(first: Influences, second: Influences) -> float:
    """Estimate the standard error of the difference of two scores.

    ``sqrt(n / (n - 1) sum_i (b_i / n_b - a_i / n_a)^2)`` over all n images of either set, an
    influence of zero where a set lacks an image. With the same images on both sides it is
    ``sd(b - a) / sqrt(n)``, with none in common the root of the sum of the squared errors.

    Args:
        first: Of one score.
        second: Of the other, over the same kind of images.

    Raises:
        MetricError: The kinds differ, or there are fewer than two images.
    """
    if first.over != second.over:
        raise MetricError("paired difference", f"{first.over} and {second.over}", "one kind")
    ids = np.union1d(first.ids, second.ids)
    if len(ids) < 2:
        raise MetricError("paired difference", f"{len(ids)} images", "two or more")
    parts = np.zeros(len(ids))
    for sign, side in ((-1.0, first), (1.0, second)):
        places = np.searchsorted(ids, side.ids)
        parts[places] += sign * (side.values - side.values.mean()) / len(side.values)
    return math.sqrt(len(ids) / (len(ids) - 1) * float(parts @ parts))


def variance_ratio(first: Influences, second: Influences) -> float | None:
    """Say by what the variance of a difference falls where the samples are paired.

    None where the paired difference has no variance at all.
    """
    paired = paired_error(first, second) ** 2
    return (first.error**2 + second.error**2) / paired if paired else None


@dataclass(frozen=True)
class DifferenceError:
    """Hold the standard error of the difference of two scores.

    Args:
        error: None where neither pairs nor errors of both are known.
        paired: Whether it is that of pairs; else errors were added in quadrature.
        gain: By what pairing divides the variance. None where nothing is paired or varies.
    """

    error: float | None
    paired: bool = False
    gain: float | None = None


def error_of_difference(
    errors: tuple[float | None, float | None],
    first: Influences | None,
    second: Influences | None,
    same_samples: bool,
) -> DifferenceError:
    """Find the standard error of the difference of two scores: by pairs where there are pairs.

    Args:
        errors: Standard errors of the scores themselves, as far as they are known.
        first: Influences on the one. None where they are not known.
        second: On the other.
        same_samples: Whether samples of equal index have the same noise. Images of a reference
            are always the same.
    """
    if first is None or second is None or (first.over == "samples" and not same_samples):
        known = [error for error in errors if error is not None]
        return DifferenceError(math.hypot(*known) if len(known) == 2 else None)
    return DifferenceError(paired_error(first, second), True, variance_ratio(first, second))


def mean_influences(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Compute the influences on a mean."""
    centered: Float64[np.ndarray, " n"] = values - values.mean()
    return centered


def share_influences(inside: Bool[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Compute the influences on a share."""
    return mean_influences(inside.astype(np.float64))


def inception_influences(
    logits: Float32[np.ndarray, "n classes"], score: float
) -> Float64[np.ndarray, " n"]:
    """Compute the influences on ``exp(mean KL(p(y|x) || p(y)))``.

    ``score (KL_i - mean KL)``: what a sample does through ``p(y)`` is of second order, for ``p(y)``
    minimizes the mean. Taken over the whole set, also where the score is a mean over splits.

    Args:
        logits: Class logits of the samples.
        score: The Inception Score.
    """
    log_conditional = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    conditional = np.exp(log_conditional)
    divergence = (conditional * (log_conditional - np.log(conditional.mean(axis=0)))).sum(axis=1)
    return score * mean_influences(divergence)
