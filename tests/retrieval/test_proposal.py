from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.proposal import (
    Proposal,
    Weighting,
    count_neighbors,
    every_row,
    merge_counts,
)


def make_proposal(counts: list[int]) -> Proposal:
    return Proposal(np.arange(100, 100 + len(counts)), np.array(counts))


def test_counts_are_neighbor_frequencies_most_frequent_first() -> None:
    proposal = count_neighbors(np.array([[4, 1], [1, 9], [9, 1], [0, 9]]))
    assert proposal.row_ids.tolist() == [1, 9, 0, 4]
    assert proposal.counts.tolist() == [3, 3, 1, 1]
    np.testing.assert_allclose(proposal.probabilities("proposal"), [3 / 8, 3 / 8, 1 / 8, 1 / 8])


def test_counts_of_parts_merge_to_the_counts_of_the_whole() -> None:
    neighbors = np.random.default_rng(0).integers(0, 30, size=(60, 4))
    whole = count_neighbors(neighbors)
    merged = merge_counts([count_neighbors(neighbors[40:]), count_neighbors(neighbors[:40])])
    assert merged.row_ids.tolist() == whole.row_ids.tolist()
    assert merged.counts.tolist() == whole.counts.tolist()


@pytest.mark.parametrize(
    ("entries", "top_m", "kept"),
    [(120, 0.5, 60), (120, 1.0, 120), (120, 0.01, 1), (5, 0.01, 1), (7, 0.5, 3), (100, 0.29, 28)],
)
def test_top_m_keeps_the_integer_part_but_at_least_one(
    entries: int, top_m: float, kept: int
) -> None:
    proposal = make_proposal(list(range(entries, 0, -1))).truncate(top_m)
    assert proposal.row_ids.tolist() == list(range(100, 100 + kept))


@pytest.mark.parametrize("top_m", [0.0, -0.1, 1.01, float("nan")])
def test_top_m_outside_its_range_is_refused(top_m: float) -> None:
    with pytest.raises(DatabaseError, match="0 < top_m <= 1"):
        make_proposal([2, 1]).truncate(top_m)


def test_draws_follow_the_weighting() -> None:
    proposal = make_proposal([6, 3, 1])
    uniforms = (np.arange(10_000) + 0.5) / 10_000
    weighted = np.unique(proposal.draw(uniforms, "proposal"), return_counts=True)
    assert weighted[0].tolist() == [100, 101, 102]
    assert weighted[1].tolist() == [6000, 3000, 1000]
    uniform = np.unique(proposal.draw(uniforms, "uniform"), return_counts=True)[1]
    assert uniform.tolist() == [3333, 3334, 3333]


@pytest.mark.parametrize("weighting", ["proposal", "uniform"])
def test_draws_from_fewer_rows_are_those_from_more_wherever_they_may_be(
    weighting: Weighting,
) -> None:
    counts = np.sort(np.random.default_rng(0).integers(1, 100, size=200))[::-1]
    proposal = make_proposal(counts.tolist())
    # As a sample's stream gives them: who needs fewer numbers reads fewer of the same.
    uniforms = np.random.default_rng(1).random(
        (4_000, proposal.tries(proposal.truncate(0.05), weighting))
    )

    def drawn(top_m: float) -> Any:
        kept = proposal.truncate(top_m)
        numbers = uniforms[:, : proposal.tries(kept, weighting)]
        return proposal.draw_common(numbers, kept, weighting)

    whole = proposal.draw(uniforms[:, 0], weighting)
    assert (drawn(1.0) == whole).all()
    for fewer, more in [(0.05, 0.2), (0.2, 1.0), (0.05, 1.0)]:
        kept = np.isin(drawn(more), proposal.truncate(fewer).row_ids)
        assert (drawn(fewer)[kept] == drawn(more)[kept]).all()
        assert kept.any()


@pytest.mark.parametrize("weighting", ["proposal", "uniform"])
@pytest.mark.parametrize("top_m", [0.02, 0.3])
def test_common_draws_have_the_distribution_of_the_others(
    top_m: float, weighting: Weighting
) -> None:
    counts = np.sort(np.random.default_rng(0).integers(1, 100, size=200))[::-1]
    proposal = make_proposal(counts.tolist())
    kept = proposal.truncate(top_m)
    uniforms = np.random.default_rng(1).random((20_000, proposal.tries(kept, weighting)))
    drawn = proposal.draw_common(uniforms, kept, weighting)
    found = np.array([(drawn == row).sum() for row in kept.row_ids])
    assert found.sum() == 20_000
    expected = 20_000 * kept.probabilities(weighting)
    assert scipy.stats.chisquare(found, expected).pvalue > 1e-3


def test_who_meets_no_kept_row_draws_from_them_all_the_same() -> None:
    proposal = make_proposal([1] * 10)
    kept = proposal.truncate(0.2)
    assert proposal.tries(kept, "uniform") == 94
    uniforms = np.full((3, 5), 0.999)
    uniforms[:, -1] = [0.0, 0.4, 0.8]
    assert proposal.draw_common(uniforms, kept, "uniform").tolist() == [100, 100, 101]


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 1023, 1024, 10**12 + 7])
def test_extreme_uniforms_draw_first_and_last_entry(total: int) -> None:
    proposal = make_proposal([total, 1])
    edges = np.array([0.0, np.nextafter(1.0, 0.0)])
    assert proposal.draw(edges, "proposal").tolist() == [100, 101]
    assert proposal.draw(edges, "uniform").tolist() == [100, 101]


def test_a_draw_depends_on_its_own_uniform_alone() -> None:
    proposal = make_proposal([5, 4, 3, 2, 1])
    uniforms = np.random.default_rng(0).random(64)
    together = proposal.draw(uniforms, "proposal")
    alone = [proposal.draw(uniforms[i : i + 1], "proposal")[0] for i in range(64)]
    assert together.tolist() == alone


@pytest.mark.parametrize(
    ("row_ids", "counts", "message"),
    [
        ([], [], "no entries"),
        ([1, 1], [2, 1], "twice"),
        ([1, 2], [1, 2], "unordered"),
        ([1, 2], [1, 0], "unordered"),
    ],
)
def test_a_malformed_proposal_is_refused(
    row_ids: list[int], counts: list[int], message: str
) -> None:
    with pytest.raises(DatabaseError, match=message):
        Proposal(np.array(row_ids, dtype=np.int64), np.array(counts, dtype=np.int64))


def test_row_ids_beyond_the_database_are_refused() -> None:
    with pytest.raises(DatabaseError, match="row id 101"):
        make_proposal([2, 1]).check_rows(101)
    every_row(5).check_rows(5)
