from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.errors import MetricError
from rdm_batch.metrics.compute import ScoreSettings, SideData, compute_scores
from rdm_batch.metrics.edits import EditData
from rdm_batch.metrics.frechet import frechet_distance
from rdm_batch.metrics.inception_score import inception_score
from rdm_batch.metrics.kernel_distance import kernel_distance
from rdm_batch.metrics.manifold_scores import manifold_scores
from rdm_batch.metrics.moments import gaussian_statistics
from rdm_batch.metrics.novelty import NoveltyDistances
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.tasks import RunHere
from rdm_batch.specs.scores import SCORES, Score
from tests.metrics.examples import cloud, feature_set, layered_set
from tests.tolerances import MERGED_REL

DIMS = {"embedding": 12, "logits_unbiased": 7, "spatial": 9}


@pytest.fixture(scope="module")
def reference() -> ReferenceStatistics:
    return ReferenceStatistics.from_features(feature_set(cloud(300, 12, seed=1)))


@pytest.fixture(scope="module")
def everything() -> list[Score]:
    """Every score there is, on a small set."""
    rng = np.random.default_rng(0)
    novelty = NoveltyDistances(
        database="db" * 32,
        neighbors=0.1 * rng.random(200),
        nearest=rng.random(200),
        held_out=rng.random(300),
    )
    edits = EditData(
        {name: cloud(200, dim, seed=6) for name, dim in DIMS.items()},
        names=tuple(f"source {number // 2}" for number in range(200)),
        texts=cloud(200, 12, seed=8),
        outside=rng.random(200),
    )
    return compute_scores(
        layered_set(200, 0, DIMS),
        ReferenceStatistics.from_features(layered_set(300, 1, DIMS)),
        tuple(SCORES),
        side_data=SideData(cloud(200, 12, seed=5), novelty, edits),
        partial=True,
    )


def test_scores_come_in_the_order_asked_for(reference: ReferenceStatistics) -> None:
    names = ["recall", "fid", "precision"]
    scores = compute_scores(feature_set(cloud(200, 12, seed=0)), reference, names)
    assert [score.id for score in scores] == names


def test_every_score_has_value_uncertainty_and_description(everything: list[Score]) -> None:
    assert tuple(score.id for score in everything) == tuple(SCORES)
    for score in everything:
        assert np.isfinite(score.value), score.id
        assert score.uncertainty is not None, score.id
        assert score.uncertainty > 0, score.id
        assert score.uncertainty_method
        # Pixels are compared as they are stored.
        of_pixels = score.id == "preservation_outside"
        assert score.description.extractor_digest == (None if of_pixels else "ab" * 32)
        assert score.description.num_generated == 200
        assert score.description.partial


def test_scores_are_taken_on_their_own_layers(everything: list[Score]) -> None:
    layers = {score.id: score.description.layer for score in everything}
    assert layers.pop("is") == "logits_unbiased"
    assert layers.pop("sfid") == "spatial"
    assert layers.pop("preservation_outside") is None
    assert set(layers.values()) == {"embedding"}


def test_scores_without_a_reference_do_not_name_one(everything: list[Score]) -> None:
    alone = {"is", "clip_score", "novelty_neighbors", "novelty_database", "vendi"}
    alone |= {score.id for score in everything if SCORES[score.id].edits}
    for score in everything:
        assert (score.description.reference is None) == (score.id in alone), score.id
        assert (score.description.num_reference is None) == (score.id in alone), score.id


def test_a_scorer_gets_what_its_metric_gives(everything: list[Score]) -> None:
    value = {score.id: score.value for score in everything}
    generated, reference = cloud(200, 12, seed=0), cloud(300, 12, seed=1)
    assert value["kid"] == kernel_distance(generated, reference).mean
    manifold = manifold_scores(generated, reference, 3, 5)
    assert manifold.precision_recall is not None
    assert manifold.density_coverage is not None
    assert value["precision"] == manifold.precision_recall.precision
    assert value["recall"] == manifold.precision_recall.recall
    assert value["density"] == manifold.density_coverage.density
    assert value["coverage"] == manifold.density_coverage.coverage
    assert value["is"] == inception_score(cloud(200, 7, seed=0)).mean
    spatial = [gaussian_statistics(cloud(n, 9, seed)) for n, seed in ((200, 0), (300, 1))]
    assert value["sfid"] == pytest.approx(frechet_distance(*spatial), rel=MERGED_REL)


def test_the_number_of_tasks_changes_no_value(everything: list[Score]) -> None:
    names = ["fid", "kid", "precision", "recall", "density", "coverage"]
    names += ["clipped_density", "clipped_coverage", "kd", "cmmd", "mind", "fid_infinity"]
    again = compute_scores(
        layered_set(200, 0, DIMS),
        ReferenceStatistics.from_features(layered_set(300, 1, DIMS)),
        names,
        ScoreSettings(block_size=37),
        partial=True,
        runner=RunHere(5),
    )
    before = {score.id: score for score in everything}
    for score in again:
        assert score.value == pytest.approx(before[score.id].value, rel=MERGED_REL)
        assert score.description == before[score.id].description


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("is", "test has no layer 'logits_unbiased'; needed class logits"),
        ("sfid", "test has no layer 'spatial'; needed spatial features"),
        ("clip_score", "no prompt embeddings; needed samples with prompts"),
        ("novelty_database", "the distances it is made of are missing"),
    ],
)
def test_a_score_that_cannot_be_made_says_what_it_needs(
    reference: ReferenceStatistics, name: str, message: str
) -> None:
    with pytest.raises(MetricError, match=f"{name}: {message}"):
        compute_scores(feature_set(cloud(200, 12, seed=0)), reference, [name])


@pytest.mark.parametrize("name", ["kd", "mind", "vendi", "fid_infinity"])
def test_a_single_sample_is_refused(reference: ReferenceStatistics, name: str) -> None:
    with pytest.raises(MetricError, match="1 samples; needed 2"):
        compute_scores(feature_set(cloud(1, 12, seed=0)), reference, [name])


def test_a_score_against_nothing_is_refused() -> None:
    with pytest.raises(MetricError, match="fid: no reference is given"):
        compute_scores(feature_set(cloud(200, 12, seed=0)), None, ["fid"])


def test_descriptions_tell_what_keeps_scores_apart(reference: ReferenceStatistics) -> None:
    generated = feature_set(cloud(200, 12, seed=0))
    fewer = feature_set(cloud(150, 12, seed=0))
    (first,) = compute_scores(generated, reference, ["recall"])
    (again,) = compute_scores(generated, reference, ["recall"])
    (second,) = compute_scores(fewer, reference, ["recall"], ScoreSettings(k=5))
    assert first.description == again.description
    mine, other = first.description.conditions(), second.description.conditions()
    assert {field for field in mine if mine[field] != other[field]} == {"num_generated", "k"}


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


def test_few_samples_have_no_uncertainty_and_say_so(reference: ReferenceStatistics) -> None:
    (score,) = compute_scores(feature_set(cloud(15, 12, seed=0)), reference, ["fid"])
    assert score.uncertainty is None
    assert score.uncertainty_method == "not computed: fewer than 20 samples"
