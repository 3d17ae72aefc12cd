"""Many tests at once: what is left of a small probability when it was one of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rdm_batch.errors import RegressionError
from rdm_batch.regression.statistics.equivalence import ALPHA, Equivalence, Outcome, decided


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust probabilities so that none of many true hypotheses is rejected but rarely (Holm 1979).

    ``max_{j <= i} min(1, (m - j) p_(j))`` over the ordered values, j from 0. Rejecting what is
    below a level then errs anywhere among the m with at most that probability, however the tests
    depend on each other.

    Args:
        p_values: Of the tests, each in [0, 1].

    Returns:
        The adjusted values, in the order given.

    Raises:
        RegressionError: A value is no probability.
    """
    found = np.asarray(p_values, dtype=np.float64)
    if found.size and not np.all((found >= 0) & (found <= 1)):
        raise RegressionError("Holm's adjustment", f"{list(p_values)}", "probabilities")
    order = np.argsort(found, kind="stable")
    scaled = found[order] * np.arange(len(found), 0, -1)
    adjusted = np.empty_like(found)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled)) if len(found) else scaled
    return [float(value) for value in adjusted]


def outcomes_of_jobs(tests: Sequence[Equivalence], alpha: float = ALPHA) -> list[Outcome]:
    """Decide the primary figures of many jobs together.

    A job fails where its difference is larger than its margin at the level, adjusted for all jobs.
    Passing is not adjusted: every job has to show for itself that it has not moved, and asking
    more of it because there are others would only leave more undecided.

    Args:
        tests: One of each job.
        alpha: Chance of a false alarm among all jobs, and of a false pass in each.
    """
    adjusted = holm([test.p_different for test in tests])
    return [
        decided(test.p_equivalent, p_different, alpha)
        for test, p_different in zip(tests, adjusted, strict=True)
    ]
