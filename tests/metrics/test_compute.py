from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.errors import MetricError
from rdm_batch.metrics.compute import SCORE_NAMES, ScoreSettings, compute_scores
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.score import difference_of_descriptions
from tests.metrics.examples import cloud, feature_set


@pytest.fixture(scope="module")
def reference() -> ReferenceStatistics:
    return ReferenceStatistics.from_features(feature_set(cloud(300, 12, seed=1)))


def test_scores_come_in_the_order_asked_for(reference: ReferenceStatistics) -> None:
    names = ["recall", "fid", "precision"]
    scores = compute_scores(feature_set(cloud(200, 12, seed=0)), reference, names)
    assert [score.name for score in scores] == names


def test_every_score_says_what_it_depends_on(reference: ReferenceStatistics) -> None:
    generated = feature_set(cloud(200, 12, seed=0))
    for score in compute_scores(generated, reference, SCORE_NAMES, partial=True):
        description = score.description
        assert description.extractor_digest == generated.extractor.digest
        assert description.layer == "f"
        assert (description.num_generated, description.num_reference) == (200, 300)
        assert description.reference == reference.digest
        assert description.partial
        assert score.uncertainty is not None
        assert score.uncertainty_method


def test_descriptions_tell_what_keeps_scores_apart(reference: ReferenceStatistics) -> None:
    generated = feature_set(cloud(200, 12, seed=0))
    fewer = feature_set(cloud(150, 12, seed=0))
    (first,) = compute_scores(generated, reference, ["recall"])
    (again,) = compute_scores(generated, reference, ["recall"])
    (second,) = compute_scores(fewer, reference, ["recall"], ScoreSettings(k=5))
    assert difference_of_descriptions(first, again) == []
    assert difference_of_descriptions(first, second) == ["num_generated: 200 != 150", "k: 3 != 5"]


def test_another_extractor_is_refused(reference: ReferenceStatistics) -> None:
    generated = feature_set(cloud(200, 12, seed=0), digest="ef" * 32)
    with pytest.raises(MetricError, match=r"abababababab.* but samples have features of .*efefef"):
        compute_scores(generated, reference, ["fid"])


def test_an_unknown_score_is_named(reference: ReferenceStatistics) -> None:
    with pytest.raises(MetricError, match="unknown score 'fidd'; needed one of fid, precision"):
        compute_scores(feature_set(cloud(20, 12, seed=0)), reference, ["fidd"])


def test_frechet_uncertainty_matches_the_spread_over_independent_sets(
    reference: ReferenceStatistics,
) -> None:
    values, errors = [], []
    for seed in range(40):
        (score,) = compute_scores(feature_set(cloud(200, 12, seed=10 + seed)), reference, ["fid"])
        values.append(score.value)
        errors.append(score.uncertainty)
    assert 0.5 < np.mean(errors) / np.std(values) < 2


def test_few_samples_have_no_jackknife_and_say_so(reference: ReferenceStatistics) -> None:
    (score,) = compute_scores(feature_set(cloud(15, 12, seed=0)), reference, ["fid"])
    assert score.uncertainty is None
    assert score.uncertainty_method == "not computed: fewer than 20 samples"
