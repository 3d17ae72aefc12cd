"""The proposal distribution p_D over database rows, and top-m sampling from it.

p_D(y) is how often y serves as a neighbor of the training set X (RDM, Blattmann et al.
2022, arXiv:2204.11824, Eq. 7 and Section 3.3): count(y) / (k |X|).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int, Int64

from rdm_batch.errors import DatabaseError

Weighting = Literal["proposal", "uniform"]
_MOST_TRIES = 4_096
_MISSED = 1e-9


@dataclass(frozen=True)
class Proposal:
    """Hold the rows that may be drawn as pseudo-queries, most frequent first.

    Attributes:
        row_ids: Database row ids, each once.
        counts: How often each row is a neighbor of the training set, at least 1.
    """

    row_ids: Int64[np.ndarray, " entries"]
    counts: Int64[np.ndarray, " entries"]

    def __post_init__(self) -> None:
        if len(self.row_ids) == 0:
            raise DatabaseError("proposal", "no entries", "at least one row to draw from")
        if len(np.unique(self.row_ids)) != len(self.row_ids):
            raise DatabaseError("proposal", "a row id occurs twice", "each row once")
        if (self.counts < 1).any() or (np.diff(self.counts) > 0).any():
            raise DatabaseError("proposal", "unordered counts", "positive counts, falling")

    def check_rows(self, rows: int) -> None:
        """Refuse row ids that a database of ``rows`` rows does not have.

        Raises:
            DatabaseError: An id is negative or at least ``rows``.
        """
        outside = self.row_ids[(self.row_ids < 0) | (self.row_ids >= rows)]
        if outside.size:
            raise DatabaseError(
                "proposal",
                f"row id {int(outside[0])} ({outside.size} of {self.row_ids.size} entries)",
                f"0 <= id < {rows:,}",
                "use the proposal that was computed for this database",
            )

    def probabilities(self, weighting: Weighting) -> Float64[np.ndarray, " entries"]:
        """Give the probability of each entry under a weighting."""
        weights = self.counts if weighting == "proposal" else np.ones_like(self.counts)
        shares: Float64[np.ndarray, " entries"] = weights / weights.sum()
        return shares

    def truncate(self, top_m: float) -> Proposal:
        """Keep the fraction ``top_m`` of entries with the highest p_D (top-m sampling).

        int(top_m * entries) entries are kept, as published, but at least one.

        Raises:
            DatabaseError: top_m is not in (0, 1].
        """
        if not 0 < top_m <= 1:
            raise DatabaseError("top_m", f"{top_m}", "0 < top_m <= 1")
        kept = max(1, int(top_m * len(self.row_ids)))
        return Proposal(self.row_ids[:kept], self.counts[:kept])

    def without(self, removed: Int64[np.ndarray, " gone"]) -> Proposal:
        """Leave rows out that are not to be drawn.

        Raises:
            DatabaseError: None is left.
        """
        if not len(removed):
            return self
        kept = np.isin(self.row_ids, removed, invert=True)
        return Proposal(self.row_ids[kept], self.counts[kept])

    def draw(
        self, uniforms: Float64[np.ndarray, " n"], weighting: Weighting
    ) -> Int64[np.ndarray, " n"]:
        """Draw one row id per uniform number, with replacement, by inverse CDF.

        Args:
            uniforms: One number in [0, 1) per sample.
            weighting: From p_D restricted to these entries, or each entry equally.
        """
        drawn: Int64[np.ndarray, " n"] = self.row_ids[self._entries(uniforms, weighting)]
        return drawn

    def tries(self, kept: Proposal, weighting: Weighting) -> int:
        """Count the numbers that a sample needs for ``draw_common``: its tries, and one more.

        One of so many tries meets the kept entries but for a billionth of the samples, or for
        more of them where so little is kept that it would take more than ``_MOST_TRIES``.

        Args:
            kept: These entries, truncated.
            weighting: How they are drawn.
        """
        share = self.probabilities(weighting)[: len(kept.row_ids)].sum()
        if share >= 1:
            return 2
        return 1 + min(_MOST_TRIES, math.ceil(math.log(_MISSED) / math.log1p(-share)))

    def draw_common(
        self, uniforms: Float64[np.ndarray, "n tries"], kept: Proposal, weighting: Weighting
    ) -> Int64[np.ndarray, " n"]:
        """Draw from the entries that are kept, sharing rows with draws that keep others.

        Every sample draws from all entries, number after number, until an entry is kept: what it
        draws from fewer entries is what it draws from more of them, wherever that is among the
        fewer (common random numbers by rejection). The distribution is that of ``kept.draw``,
        which answers with the last number where no try has met it.

        Args:
            uniforms: ``tries`` numbers in [0, 1) per sample, from the beginning of its stream.
            kept: These entries, truncated: what is drawn from.
            weighting: From p_D restricted to the kept entries, or each of them equally.
        """
        found = kept.draw(uniforms[:, -1], weighting)
        entries = self._entries(uniforms[:, :-1], weighting)
        met = entries < len(kept.row_ids)
        first = entries[np.arange(len(entries)), met.argmax(axis=1)]
        shared: Int64[np.ndarray, " n"] = np.where(met.any(axis=1), self.row_ids[first], found)
        return shared

    def _entries(
        self, uniforms: Float64[np.ndarray, " *shape"], weighting: Weighting
    ) -> Int64[np.ndarray, " *shape"]:
        """Find the entry of each number in [0, 1)."""
        if weighting == "uniform":
            even: Int64[np.ndarray, " *shape"] = np.floor(uniforms * len(self.row_ids)).astype(
                np.int64
            )
            return even
        cumulative = np.cumsum(self.counts)
        places = np.floor(uniforms * cumulative[-1])
        found: Int64[np.ndarray, " *shape"] = np.searchsorted(cumulative, places, side="right")
        return found


def count_neighbors(neighbor_ids: Int[np.ndarray, "n k"]) -> Proposal:
    """Count how often each row is a neighbor, most frequent first, ties by row id.

    Args:
        neighbor_ids: The k nearest database rows of every image of the training set.
    """
    row_ids, counts = np.unique(neighbor_ids.astype(np.int64), return_counts=True)
    order = np.lexsort((row_ids, -counts))
    return Proposal(row_ids[order], counts[order].astype(np.int64))


def merge_counts(parts: Sequence[Proposal]) -> Proposal:
    """Add the counts of disjoint parts of the training set, at least one; all at once."""
    row_ids, inverse = np.unique(
        np.concatenate([part.row_ids for part in parts]), return_inverse=True
    )
    counts = np.zeros(len(row_ids), dtype=np.int64)
    np.add.at(counts, inverse, np.concatenate([part.counts for part in parts]))
    order = np.lexsort((row_ids, -counts))
    return Proposal(row_ids[order], counts[order])


def total_variation(first: Proposal, second: Proposal) -> float:
    """Measure half the sum of absolute differences of two distributions over rows, in 0..1."""
    shares = [part.counts / part.counts.sum() for part in (first, second)]
    _, inverse = np.unique(np.concatenate([first.row_ids, second.row_ids]), return_inverse=True)
    differences = np.zeros(int(inverse.max()) + 1)
    np.add.at(differences, inverse, np.concatenate([shares[0], -shares[1]]))
    return float(np.abs(differences).sum() / 2)


def top_overlap(found: Proposal, exact: Proposal, top_m: float) -> float:
    """Give the share of the rows that top-m sampling keeps of ``exact`` that ``found`` keeps too.

    Args:
        found: Counts to judge.
        exact: Counts to judge them by.
        top_m: Fraction of entries kept of each.
    """
    kept = exact.truncate(top_m).row_ids
    return float(np.isin(kept, found.truncate(top_m).row_ids).mean())


def every_row(rows: int) -> Proposal:
    """Give each row of a database the count 1, for drawing without a training set."""
    return Proposal(np.arange(rows, dtype=np.int64), np.ones(rows, dtype=np.int64))
