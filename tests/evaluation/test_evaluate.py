from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import MetricError, SampleSetError
from rdm_batch.evaluation.evaluate import EvaluationRequest, evaluate, open_sides
from rdm_batch.evaluation.features import (
    extract_part,
    features_key,
    load_features,
    parts_without_features,
    store_features,
)
from rdm_batch.inputs.extractors import extractor_digest, load_extractor
from rdm_batch.inputs.image_sets import SampleImages, open_image_set
from rdm_batch.metrics.clip_score import clip_scores
from rdm_batch.metrics.compute import compute_scores
from rdm_batch.metrics.features import FeatureExtractor, FeatureSet
from rdm_batch.metrics.frechet import frechet_distance
from rdm_batch.metrics.moments import gaussian_statistics
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.models.clip import load_encoder
from rdm_batch.specs.job import DatabaseSpec, EncoderSpec, EvaluationSpec, ExtractorSpec
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.table import make_table
from tests.evaluation.kit import (
    commit,
    extract,
    extractor_of,
    images_of,
    never,
    request_for,
    scores_of,
)
from tests.job_kit import DIM
from tests.metrics.examples import cloud, feature_set
from tests.tolerances import MERGED_REL, NETWORK_REL
from tests.worlds import World, checked

SCORES = ("fid", "precision", "recall")


@pytest.fixture(autouse=True)
def parts_of_one_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdm_batch.inputs.image_sets.SET_PART_IMAGES", 4)


def test_scores_of_stored_features_equal_those_of_the_images(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    extract(SampleImages(sample_set), extractor)
    images = images_of(sample_set)
    (layer,) = extractor.description.layers
    # Shard by shard, as they are stored: float32 sums depend on the shape of a batch.
    rows = [extractor.extract(images[first : first + 4])[layer] for first in range(0, 24, 4)]
    direct = FeatureSet(
        extractor.description, np.arange(24), {layer: np.concatenate(rows)}, "the images"
    )
    reference = ReferenceStatistics.load(Path(evaluation.reference))
    expected = compute_scores(direct, reference, SCORES)
    assert scores_of(request_for(sample_set, evaluation)) == expected


def test_features_are_stored_once_and_not_computed_again(
    sample_set: SampleSet, extractor: FeatureExtractor
) -> None:
    digest = extractor.description.digest
    images = SampleImages(sample_set)
    assert [part.number for part in parts_without_features(images, digest)] == [*range(6)]
    for part in images.parts[:4]:
        store_features(images, part, extract_part(images, part, extractor))
    assert [part.number for part in parts_without_features(images, digest)] == [4, 5]
    extract(images, extractor)
    assert parts_without_features(images, digest) == []
    assert load_features(images, digest).ids.tolist() == list(range(24))


def test_features_of_another_extractor_or_other_samples_never_match(
    sample_set: SampleSet, extractor: FeatureExtractor, world: World
) -> None:
    digest = extractor.description.digest
    before = SampleImages(sample_set)
    extract(before, extractor)
    assert len(parts_without_features(before, "0" * 64)) == 6

    sample_set.store.delete(sample_set.entries()[2].file)
    sample_set.store.delete("_shards/00002.json")
    commit(sample_set, world, [2], seed=6)
    sample_set.finish()
    after = SampleImages(sample_set)
    assert features_key(digest, after.parts[2]) != features_key(digest, before.parts[2])
    assert [part.number for part in parts_without_features(after, digest)] == [2]


def test_an_incomplete_set_is_scored_only_when_allowed(
    world: World, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    header = checked(world.document).header
    made = SampleSet.create_or_resume(world.document["output"]["uri"], header)
    commit(made, world, [0, 1, 3, 5])
    images = open_image_set(made.uri, allow_partial=True)
    extract(images, extractor)
    with pytest.raises(SampleSetError, match=r"16 of 24 samples \(shards missing: 2, 4\)"):
        scores_of(request_for(made, evaluation))
    for score in scores_of(request_for(made, evaluation, allow_partial=True)):
        assert score.description.partial
        assert score.description.num_generated == 16


def test_a_set_without_all_its_features_is_not_scored(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    images = SampleImages(sample_set)
    store_features(images, images.parts[0], extract_part(images, images.parts[0], extractor))
    with pytest.raises(MetricError, match=r"_features/.*00001-.*does not exist"):
        scores_of(request_for(sample_set, evaluation))


def test_damaged_features_are_named(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    images = SampleImages(sample_set)
    extract(images, extractor)
    key = features_key(extractor.description.digest, images.parts[3])
    sample_set.store.write_bytes(key, b"damaged")
    with pytest.raises(MetricError, match=r"00003-.*delete it to have the features computed again"):
        scores_of(request_for(sample_set, evaluation))


def test_an_extractor_is_identified_without_being_loaded(
    world: World, extractor: FeatureExtractor
) -> None:
    assert extractor_digest(extractor_of(world)) == extractor.description.digest


def test_an_image_text_encoder_has_no_choice_of_resize(world: World) -> None:
    spec = extractor_of(world).model_copy(update={"resize": "clean-bicubic"})
    for use in (extractor_digest, load_extractor):
        with pytest.raises(MetricError, match="an image-text encoder has its own"):
            use(spec)


def test_held_out_images_need_not_be_the_reference(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec, world: World
) -> None:
    extract(SampleImages(sample_set), extractor)
    held_out = open_image_set("shapes:held_out:7")
    extract(held_out, extractor)
    update = {"scores": ("novelty_held_out",), "held_out": "shapes:held_out:7"}
    request = request_for(
        sample_set,
        evaluation.model_copy(update=update),
        database=DatabaseSpec(uri=world.document["database"]["uri"]),
    )
    (score,) = scores_of(request)
    assert score.description.num_reference == 7


def test_a_saved_reference_is_read_once_from_the_checks_to_the_scores(
    sample_set: SampleSet,
    extractor: FeatureExtractor,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extract(SampleImages(sample_set), extractor)
    read = _count_reads(monkeypatch)
    reference = world.document["evaluation"]["reference"]
    document = world.job(
        evaluation__scores=["fid", "clip_fid", "recall", "novelty_held_out"],
        evaluation__encoder={"name": "tiny-clip", "weights": extractor_of(world).weights},
        evaluation__held_out=reference,
    )
    job = checked(document)
    assert job.spec.evaluation is not None
    request = request_for(sample_set, job.spec.evaluation, database=job.spec.database)
    scores = evaluate(request, never, sides=open_sides(request, job.references)).scores
    assert len(scores) == 4
    assert read == [Path(reference)]


def test_a_saved_reference_is_read_once_where_nothing_was_opened_before(
    sample_set: SampleSet,
    extractor: FeatureExtractor,
    evaluation: EvaluationSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extract(SampleImages(sample_set), extractor)
    read = _count_reads(monkeypatch)
    scores_of(request_for(sample_set, evaluation))
    assert read == [Path(evaluation.reference)]


def _count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note every reading of saved statistics."""
    read: list[Path] = []
    load = ReferenceStatistics.load

    def noted(path: Path) -> ReferenceStatistics:
        read.append(path)
        return load(path)

    monkeypatch.setattr(ReferenceStatistics, "load", noted)
    return read


def test_clip_fid_takes_the_encoder_whatever_the_extractor_is(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec, world: World
) -> None:
    extract(SampleImages(sample_set), extractor)
    (fid,) = scores_of(request_for(sample_set, evaluation.model_copy(update={"scores": ("fid",)})))
    encoder = EncoderSpec(name="tiny-clip", weights=extractor_of(world).weights)
    inception = ExtractorSpec(name="inception-v3-compat", weights="/nowhere.pth")
    for changes in (
        {},
        {"extractor": inception, "encoder": encoder},
    ):
        asked = evaluation.model_copy(update={"scores": ("clip_fid",)} | changes)
        (score,) = scores_of(request_for(sample_set, asked))
        assert score.value == fid.value
        assert score.description == fid.description.model_copy(update={"name": "clip_fid"})
    # Without an encoder of the evaluation's own the database's serves.
    asked = evaluation.model_copy(update={"scores": ("clip_fid",), "extractor": inception})
    database = DatabaseSpec(uri=world.document["database"]["uri"], encoder=encoder)
    (score,) = scores_of(request_for(sample_set, asked, database=database))
    assert score.value == fid.value
    with pytest.raises(MetricError, match="'clip_fid' is made with an image-text encoder"):
        scores_of(request_for(sample_set, asked))


@pytest.mark.parametrize("keep", [True, False], ids=["features", "moments"])
def test_saved_statistics_serve_as_samples(
    sample_set: SampleSet,
    extractor: FeatureExtractor,
    evaluation: EvaluationSpec,
    tmp_path: Path,
    keep: bool,
) -> None:
    images = SampleImages(sample_set)
    extract(images, extractor)
    expected = {score.id: score for score in scores_of(request_for(sample_set, evaluation))}
    features = load_features(images, extractor.description.digest)
    ReferenceStatistics.from_features(features, keep).save(tmp_path / "samples.npz")

    names = SCORES if keep else ("fid",)
    asked = evaluation.model_copy(update={"scores": names})
    for score in scores_of(EvaluationRequest(str(tmp_path / "samples.npz"), asked)):
        assert score.value == pytest.approx(expected[score.id].value, rel=MERGED_REL)
        assert score.description == expected[score.id].description
        assert (score.uncertainty is None) == (not keep)
    if not keep:
        with pytest.raises(MetricError, match="holds no features of layer"):
            scores_of(EvaluationRequest(str(tmp_path / "samples.npz"), evaluation))


def test_saved_samples_of_another_extractor_are_refused(
    evaluation: EvaluationSpec, tmp_path: Path
) -> None:
    saved = ReferenceStatistics.from_features(feature_set(cloud(30, DIM, seed=0)))
    saved.save(tmp_path / "samples.npz")
    with pytest.raises(MetricError, match=r"saved features are those of test .*, not of tiny-clip"):
        scores_of(EvaluationRequest(str(tmp_path / "samples.npz"), evaluation))


def test_moments_of_an_adm_file_serve_as_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (gaussian_statistics(cloud(40, 8, seed=seed)) for seed in (0, 1))
    for name, statistics in (("a", first), ("b", second)):
        np.savez(tmp_path / f"{name}.npz", mu=statistics.mean, sigma=statistics.covariance)
    weights = tmp_path / "inception.pth"
    weights.write_bytes(b"moments need no network")
    asked = EvaluationSpec(
        reference=str(tmp_path / "b.npz"),
        scores=("fid",),
        extractor=ExtractorSpec(name="inception-v3-compat", weights=str(weights)),
    )
    (score,) = scores_of(EvaluationRequest(str(tmp_path / "a.npz"), asked))
    assert score.value == pytest.approx(frechet_distance(first, second), rel=MERGED_REL)
    assert score.description.num_generated is None


def test_a_duplicated_set_is_refused_with_counts(
    sample_set: SampleSet, evaluation: EvaluationSpec, extractor: FeatureExtractor
) -> None:
    entries = sample_set.entries()
    twice = sample_set.store.read_bytes(entries[0].file)
    sample_set.store.write_bytes(entries[1].file, twice)
    copied = entries[1].model_copy(update={"num_bytes": len(twice), "sha256": entries[0].sha256})
    sample_set.store.write_bytes("_shards/00001.json", copied.to_bytes())
    sample_set.finish()
    with pytest.raises(SampleSetError, match=r"sample 0 stands where 4 belongs \(4 of 4 rows"):
        extract(open_image_set(sample_set.uri), extractor)


def test_clip_score_compares_samples_with_their_prompts(
    world: World, extractor: FeatureExtractor, evaluation: EvaluationSpec, tmp_path: Path
) -> None:
    prompts = ("a red circle", "a blue square")
    made = SampleSet.create_or_resume(
        str(tmp_path / "text"), checked(world.text_job(*prompts)).header
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    for shard in range(6):
        indices = np.arange(4 * shard, 4 * shard + 4)
        table = make_table(
            sample_indices=indices,
            images=[encode_png(images[index]) for index in indices],
            seed=5,
            prompts=[prompts[index % 2] for index in indices],
        )
        made.commit_shard(shard, table)
    made.finish()
    extract(SampleImages(made), extractor)
    update = {"scores": ("clip_score",)}
    (score,) = scores_of(request_for(made, evaluation.model_copy(update=update)))

    encoder = load_encoder(world.root / "clip.safetensors")
    texts = encoder.encode_texts(list(prompts))[np.arange(24) % 2]
    expected = clip_scores(encoder.encode_images(list(images)), texts).mean()
    assert score.value == pytest.approx(expected, rel=NETWORK_REL)


def test_clip_score_of_samples_without_prompts_is_refused(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    extract(SampleImages(sample_set), extractor)
    update = {"scores": ("clip_score",)}
    with pytest.raises(MetricError, match="24 of 24 samples have no prompt"):
        scores_of(request_for(sample_set, evaluation.model_copy(update=update)))
