from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import MetricError
from rdm_batch.evaluation.evaluate import EvaluationRequest, evaluate
from rdm_batch.evaluation.features import load_features
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.inputs.extractors import load_extractor
from rdm_batch.inputs.image_sets import SampleImages, open_image_set
from rdm_batch.metrics.features import FeatureExtractor
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.models.clip import build_clip, save_clip
from rdm_batch.specs.job import DatabaseSpec, EvaluationSpec, ExtractorSpec
from rdm_batch.storage.sample_set import SampleSet
from tests.evaluation.kit import extract, never, request_for, scores_of
from tests.job_kit import ROWS, TINY_CLIP, write_database
from tests.tolerances import COSINE_REL
from tests.worlds import World


@pytest.fixture(autouse=True)
def parts_of_one_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdm_batch.inputs.image_sets.SET_PART_IMAGES", 4)


def test_novelty_is_the_distance_to_neighbors_and_database(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec, world: World
) -> None:
    images = SampleImages(sample_set)
    extract(images, extractor)
    names = ("novelty_neighbors", "novelty_database", "novelty_held_out")
    database = DatabaseSpec(uri=world.document["database"]["uri"])
    request = request_for(
        sample_set, evaluation.model_copy(update={"scores": names}), database=database
    )
    scores = {score.id: score for score in scores_of(request)}

    manifest = Database.open(database.uri).manifest
    retriever = open_database(Path(database.uri))
    rows = retriever.fetch(np.arange(ROWS)).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    def distances(features: np.ndarray) -> np.ndarray:
        unit = features / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
        return 1 - unit @ rows.T

    (layer,) = extractor.description.layers
    to_rows = distances(load_features(images, extractor.description.digest).layer(layer))
    batches = sample_set.iter_batches(["neighbor_ids"])
    ids = [row["neighbor_ids"] for batch in batches for row in batch.to_pylist()]
    own = np.mean([to_rows[sample, of].min() for sample, of in enumerate(ids)])
    reference = ReferenceStatistics.load(Path(evaluation.reference))
    expected = {
        "novelty_neighbors": own,
        "novelty_database": to_rows.min(axis=1).mean(),
        "novelty_held_out": distances(reference.rows(layer)).min(axis=1).mean(),
    }
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, abs=COSINE_REL), name
        assert scores[name].description.settings["database"] == manifest.digest


def test_novelty_needs_the_encoder_of_the_database(
    sample_set: SampleSet, evaluation: EvaluationSpec, world: World, tmp_path: Path
) -> None:
    architecture = TINY_CLIP.model_copy(update={"name": "other-clip"})
    save_clip(build_clip(architecture), architecture, tmp_path / "clip.safetensors")
    spec = ExtractorSpec(name="other-clip", weights=str(tmp_path / "clip.safetensors"))
    extract(SampleImages(sample_set), load_extractor(spec))
    update = {"scores": ("novelty_database",), "extractor": spec}
    request = request_for(
        sample_set,
        evaluation.model_copy(update=update),
        database=DatabaseSpec(uri=world.document["database"]["uri"]),
    )
    with pytest.raises(MetricError, match=r"it was built with tiny-clip .* one encoder on both"):
        scores_of(request)


def test_novelty_without_a_database_says_what_is_missing(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    extract(SampleImages(sample_set), extractor)
    update = {"scores": ("novelty_database",)}
    with pytest.raises(MetricError, match="not known which database"):
        scores_of(request_for(sample_set, evaluation.model_copy(update=update)))


def test_novelty_to_another_database_than_the_samples_own_is_refused(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec, tmp_path: Path
) -> None:
    extract(SampleImages(sample_set), extractor)
    write_database(tmp_path / "other", proposal=False)
    update = {"scores": ("novelty_neighbors",)}
    request = request_for(
        sample_set,
        evaluation.model_copy(update=update),
        database=DatabaseSpec(uri=str(tmp_path / "other")),
    )
    with pytest.raises(MetricError, match="needed the database they were made from"):
        scores_of(request)


def test_images_alone_have_a_distance_to_a_database_but_no_neighbors(
    extractor: FeatureExtractor, evaluation: EvaluationSpec, world: World, tmp_path: Path
) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8))
    extract(open_image_set(str(path)), extractor)

    def request(score: str) -> EvaluationRequest:
        asked = evaluation.model_copy(update={"scores": (score,)})
        database = DatabaseSpec(uri=world.document["database"]["uri"])
        return EvaluationRequest(str(path), asked, database)

    (score,) = scores_of(request("novelty_database"))
    assert 0 < score.value < 2
    with pytest.raises(MetricError, match=r"novelty_neighbors of .* images alone; needed a sample"):
        scores_of(request("novelty_neighbors"))


def test_copies_are_told_by_the_distances_of_held_out_images(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec, world: World
) -> None:
    extract(SampleImages(sample_set), extractor)
    held_out = open_image_set("shapes:held_out:120")
    extract(held_out, extractor)
    names = ("novelty_neighbors", "novelty_held_out", "copy_share")
    request = request_for(
        sample_set,
        evaluation.model_copy(update={"scores": names, "held_out": "shapes:held_out:120"}),
        database=DatabaseSpec(uri=world.document["database"]["uri"]),
    )
    evaluated = evaluate(request, never)
    novelty = evaluated.judged[0].novelty
    assert novelty is not None
    assert novelty.neighbors is not None
    assert novelty.held_out is not None
    second = sorted(novelty.held_out.tolist())[1]
    expected = sum(distance < second for distance in novelty.neighbors.tolist()) / 24
    share = evaluated.scores[2]
    assert share.value == expected
    assert share.description.num_reference == 120
    for score in evaluated.scores[1:]:
        assert score.description.settings["held_out"] == novelty.held_out_digest
