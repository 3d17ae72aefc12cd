from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdm_batch.engine.conditioner import UnconditionalConditioner
from rdm_batch.engine.evaluation import (
    extract_shard,
    features_key,
    load_features,
    load_reference,
    score_set,
    shards_without_features,
)
from rdm_batch.engine.extractors import extractor_digest, load_extractor
from rdm_batch.engine.plan import plan_shards
from rdm_batch.engine.records import shard_table
from rdm_batch.engine.worker import ContextSource, ShardClock, ShardRenderer
from rdm_batch.errors import MetricError, SampleSetError
from rdm_batch.heads.null import NullHead
from rdm_batch.metrics.compute import compute_scores
from rdm_batch.metrics.features import FeatureExtractor, FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.models.clip import build_clip, save_clip
from rdm_batch.retrieval.local import open_database
from rdm_batch.retrieval.proposal import every_row
from rdm_batch.specs.job import EvaluationSpec
from rdm_batch.specs.load import parse_job
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.sample_set import SampleSet
from tests.engine.worlds import World, assert_says, checked, problem_of, problems_of
from tests.job_kit import DIM, ROWS, TINY_CLIP

SCORES = ("fid", "precision", "recall")


@pytest.fixture(scope="module")
def extractor(built_world: World) -> FeatureExtractor:
    return load_extractor("tiny-clip", str(built_world.root / "clip.safetensors"))


@pytest.fixture
def evaluation(world: World) -> EvaluationSpec:
    spec = parse_job(world.document, "job").evaluation
    assert spec is not None
    return spec


def _commit(sample_set: SampleSet, world: World, shards: list[int], seed: int = 5) -> None:
    source = ContextSource(
        UnconditionalConditioner(every_row(ROWS), 3, "uniform"),
        open_database(world.root / "database"),
    )
    spec = parse_job(world.document, "job")
    renderer = ShardRenderer(NullHead(16, DIM), seed, 4)
    for shard in plan_shards(spec):
        if shard.index in shards:
            rendered = renderer.render(shard, source, ShardClock())
            sample_set.commit_shard(shard.index, shard_table(rendered, spec.sampling))


@pytest.fixture
def sample_set(world: World) -> SampleSet:
    """A complete set of 24 images in 6 shards."""
    header = checked(world.document).header
    made = SampleSet.create_or_resume(world.document["output"]["uri"], header)
    _commit(made, world, list(range(6)))
    made.finish()
    return made


def _images(sample_set: SampleSet) -> np.ndarray:
    rows = [row for batch in sample_set.iter_batches(["image"]) for row in batch.to_pylist()]
    return np.stack([decode_png(row["image"]["bytes"]) for row in rows])


def test_scores_of_stored_features_equal_those_of_the_images(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    for entry in reversed(sample_set.entries()):
        extract_shard(sample_set, entry, extractor)
    images = _images(sample_set)
    (layer,) = extractor.description.layers
    # Shard by shard, as they are stored: float32 sums depend on the shape of a batch.
    rows = [extractor.extract(images[first : first + 4])[layer] for first in range(0, 24, 4)]
    direct = FeatureSet(
        extractor.description, np.arange(24), {layer: np.concatenate(rows)}, "the images"
    )
    expected = compute_scores(direct, load_reference(evaluation.reference), SCORES)
    assert list(score_set(sample_set.uri, evaluation)) == expected


def test_features_are_stored_once_and_not_computed_again(
    sample_set: SampleSet, extractor: FeatureExtractor
) -> None:
    digest = extractor.description.digest
    assert [entry.shard for entry in shards_without_features(sample_set, digest)] == [*range(6)]
    for entry in sample_set.entries()[:4]:
        extract_shard(sample_set, entry, extractor)
    assert [entry.shard for entry in shards_without_features(sample_set, digest)] == [4, 5]
    for entry in sample_set.entries()[4:]:
        extract_shard(sample_set, entry, extractor)
    assert shards_without_features(sample_set, digest) == []
    assert load_features(sample_set, digest).ids.tolist() == list(range(24))


def test_features_of_another_extractor_or_other_samples_never_match(
    sample_set: SampleSet, extractor: FeatureExtractor, world: World, tmp_path: Path
) -> None:
    digest = extractor.description.digest
    for entry in sample_set.entries():
        extract_shard(sample_set, entry, extractor)
    assert len(shards_without_features(sample_set, "0" * 64)) == 6

    stale = sample_set.entries()[2]
    sample_set.store.delete(stale.file)
    sample_set.store.delete("_shards/00002.json")
    _commit(sample_set, world, [2], seed=6)
    fresh = sample_set.entries()[2]
    assert features_key(digest, fresh) != features_key(digest, stale)
    assert [entry.shard for entry in shards_without_features(sample_set, digest)] == [2]


def test_an_incomplete_set_is_not_scored(
    world: World, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    header = checked(world.document).header
    made = SampleSet.create_or_resume(world.document["output"]["uri"], header)
    _commit(made, world, [0, 1, 3, 5])
    for entry in made.entries():
        extract_shard(made, entry, extractor)
    with pytest.raises(SampleSetError, match=r"16 of 24 samples \(shards missing: 2, 4\)"):
        score_set(made.uri, evaluation)


def test_a_set_without_all_its_features_is_not_scored(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    extract_shard(sample_set, sample_set.entries()[0], extractor)
    with pytest.raises(MetricError, match=r"_features/.*00001-.*does not exist"):
        score_set(sample_set.uri, evaluation)


def test_damaged_features_are_named(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    for entry in sample_set.entries():
        extract_shard(sample_set, entry, extractor)
    key = features_key(extractor.description.digest, sample_set.entries()[3])
    sample_set.store.write_bytes(key, b"damaged")
    with pytest.raises(MetricError, match=r"00003-.*delete it to have the features computed again"):
        score_set(sample_set.uri, evaluation)


def test_an_extractor_is_identified_without_being_loaded(
    world: World, extractor: FeatureExtractor
) -> None:
    weights = str(world.root / "clip.safetensors")
    assert extractor_digest("tiny-clip", weights) == extractor.description.digest


def test_an_unknown_score_suggests_a_known_one(world: World) -> None:
    message = problem_of(world.job(evaluation__scores=["precison"]))
    assert_says(message, "evaluation.scores: 'precison' is not a score", "did you mean precision?")


def test_every_unknown_score_is_named(world: World) -> None:
    problems = problems_of(world.job(evaluation__scores=["fidd", "fid", "beauty"]))
    assert ["fidd" in str(problems[0]), "beauty" in str(problems[1])] == [True, True]


@pytest.mark.parametrize(
    ("score", "num_samples", "needed"),
    [("fid", 1, 2), ("precision", 3, 4), ("recall", 3, 4), ("coverage", 5, 6)],
)
def test_a_set_too_small_for_a_score_is_refused(
    world: World, score: str, num_samples: int, needed: int
) -> None:
    document = world.job(evaluation__scores=[score], sampling__num_samples=num_samples)
    message = problem_of(document)
    assert_says(message, f"sampling.num_samples: is {num_samples}", score, f"at least {needed}")
    document["sampling"]["num_samples"] = needed
    assert checked(document).header.num_samples == needed


def test_a_missing_reference_is_named(world: World) -> None:
    message = problem_of(world.job(evaluation__reference="/nowhere/reference.npz"))
    assert_says(message, "/nowhere/reference.npz: does not exist")


def _pickled(path: Path) -> None:
    np.savez(path, header=np.array([{"format": "rdm_batch reference 1"}], dtype=object))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a reference"),
        lambda path: path.write_bytes(pickle.dumps({"mu": 1})),
        _pickled,
        lambda path: np.savez(path, arr_0=np.zeros(3)),
        lambda path: path.mkdir(),
    ],
    ids=["empty", "text", "pickle", "pickle inside", "other arrays", "folder"],
)
def test_a_file_that_is_no_reference_is_refused(world: World, tmp_path: Path, write: Any) -> None:
    path = tmp_path / "reference.npz"
    write(path)
    message = problem_of(world.job(evaluation__reference=str(path)))
    assert_says(message, str(path), "not readable", "rdm-batch reference build")


def test_a_reference_of_another_extractor_is_refused(world: World, tmp_path: Path) -> None:
    other = tmp_path / "clip.safetensors"
    architecture = TINY_CLIP.model_copy(update={"name": "other-clip"})
    save_clip(build_clip(architecture), architecture, other)
    extractor = {"name": "other-clip", "weights": str(other)}
    message = problem_of(world.job(evaluation__extractor=extractor))
    assert_says(
        message,
        f"evaluation.reference {world.root}/reference.npz",
        "holds features of tiny-clip (digest ",
        "but evaluation.extractor is other-clip",
        "build the reference again, or name its extractor",
    )


def test_a_reference_without_features_serves_moments_only(world: World, tmp_path: Path) -> None:
    whole = load_reference(str(world.root / "reference.npz"))
    path = tmp_path / "moments.npz"
    ReferenceStatistics(whole.extractor, whole.source, whole.moments, {}, whole.digest).save(path)
    message = problem_of(world.job(evaluation__reference=str(path)))
    assert_says(message, str(path), "no features, which the score 'precision' needs")
    checked(world.job(evaluation__reference=str(path), evaluation__scores=["fid"]))


@pytest.mark.parametrize("score", ["is", "sfid"])
def test_a_score_of_a_layer_the_extractor_lacks_is_refused(world: World, score: str) -> None:
    message = problem_of(world.job(evaluation__scores=[score]))
    assert_says(message, f"evaluation.scores: '{score}' is made from", "tiny-clip does not have")


def test_an_extractor_without_weights_is_refused(world: World) -> None:
    message = problem_of(world.job(evaluation__extractor={"name": "inception-v3-compat"}))
    assert_says(message, "inception-v3-compat", "no weights file is named")
