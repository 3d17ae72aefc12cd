"""Inception Score (Salimans et al. 2016, arXiv:1606.03498)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special
from jaxtyping import Float32, Float64

from rdm_batch.errors import MetricError


@dataclass(frozen=True)
class InceptionScore:
    """Hold the score of each split.

    Args:
        per_split: Score of each split.
    """

    per_split: Float64[np.ndarray, " splits"]

    @property
    def mean(self) -> float:
        """Return the score."""
        return float(self.per_split.mean())

    @property
    def std(self) -> float:
        """Return the spread between splits, as it is usually printed beside the score."""
        return float(self.per_split.std())


def inception_score(
    logits: Float32[np.ndarray, "n classes"], splits: int = 10, seed: int = 2020
) -> InceptionScore:
    """Compute ``exp(mean KL(p(y|x) || p(y)))`` over splits of the shuffled samples.

    Shuffled as torch-fidelity shuffles, in float64.

    Args:
        logits: Class logits of the samples.
        splits: Number of splits.
        seed: Seed of the shuffle.

    Raises:
        MetricError: There are fewer samples than splits.
    """
    count = len(logits)
    if count < splits:
        raise MetricError("Inception Score", f"{count} samples", f"at least {splits}, one a split")
    order = np.random.RandomState(seed).permutation(count)
    borders = [index * count // splits for index in range(splits + 1)]
    scores = np.empty(splits)
    for split in range(splits):
        rows = logits[order[borders[split] : borders[split + 1]]].astype(np.float64)
        log_conditional = scipy.special.log_softmax(rows, axis=1)
        conditional = np.exp(log_conditional)
        log_marginal = np.log(conditional.mean(axis=0))
        divergence = (conditional * (log_conditional - log_marginal)).sum(axis=1)
        scores[split] = np.exp(divergence.mean())
    return InceptionScore(scores)
