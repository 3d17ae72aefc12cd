"""Ways of conditioning that experiments measure: they are made, and hold what they say."""

from __future__ import annotations

import numpy as np

from benchmarks.experiments.cases import World, claims, query_claims


def test_every_case_is_made_and_a_query_leads_where_it_should() -> None:
    world = World()
    for name, case in {**claims(world, 4), **query_claims(world, 4, 3)}.items():
        assert len(case.context) == len(case.wanted) == 4, name
        assert np.isfinite(case.context).all()
    both = query_claims(world, 4, 3)["text"].context
    alone = world.texts(4, "query", k_nn=1).context
    assert both.shape[1] == 3
    np.testing.assert_array_equal(both[:, 0], alone[:, 0])
