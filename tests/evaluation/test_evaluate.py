from __future__ import annotations

from pathlib import Path
from typing import Any

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
from rdm_batch.generation.modes.unconditional import UnconditionalConditioner
from rdm_batch.generation.plan import plan_shards
from rdm_batch.generation.renderer import ContextSource, ShardClock, ShardRenderer, drawn_shard
from rdm_batch.heads.null import NullHead
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.inputs.extractors import extractor_digest, load_extractor
from rdm_batch.inputs.image_sets import ImageSet, SampleImages, open_image_set
from rdm_batch.metrics.clip_score import clip_scores
from rdm_batch.metrics.compute import compute_scores
from rdm_batch.metrics.features import FeatureExtractor, FeatureSet
from rdm_batch.metrics.frechet import frechet_distance
from rdm_batch.metrics.moments import gaussian_statistics
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.models.clip import build_clip, load_encoder, save_clip
from rdm_batch.retrieval.proposal import every_row
from rdm_batch.specs.job import DatabaseSpec, EncoderSpec, EvaluationSpec, ExtractorSpec
from rdm_batch.specs.load import parse_job
from rdm_batch.specs.scores import Score
from rdm_batch.storage.png import decode_png, encode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.table import make_table
from tests.job_kit import DIM, ROWS, TINY_CLIP, write_database
from tests.metrics.examples import cloud, feature_set
from tests.tolerances import COSINE_REL, MERGED_REL, NETWORK_REL
from tests.worlds import World, checked

SCORES = ("fid", "precision", "recall")


@pytest.fixture(scope="module")
def extractor(built_world: World) -> FeatureExtractor:
    return load_extractor(_spec(built_world))


@pytest.fixture(autouse=True)
def parts_of_one_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdm_batch.inputs.image_sets.SET_PART_IMAGES", 4)


def _spec(world: World) -> ExtractorSpec:
    return ExtractorSpec(name="tiny-clip", weights=str(world.root / "clip.safetensors"))


def _extract(images: ImageSet, extractor: FeatureExtractor) -> None:
    for part in reversed(images.parts):
        store_features(images, part, extract_part(images, part, extractor))


def _never(images: ImageSet, extractor: ExtractorSpec) -> None:
    """Stand for features that must be there already."""


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
            sample_set.commit_shard(shard.index, drawn_shard(rendered, spec.sampling).table())


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


def _scores(request: EvaluationRequest) -> list[Score]:
    return list(evaluate(request, _never).scores)


def _request(sample_set: SampleSet, evaluation: EvaluationSpec, **more: Any) -> EvaluationRequest:
    return EvaluationRequest(sample_set.uri, evaluation, **more)


def test_scores_of_stored_features_equal_those_of_the_images(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    _extract(SampleImages(sample_set), extractor)
    images = _images(sample_set)
    (layer,) = extractor.description.layers
    # Shard by shard, as they are stored: float32 sums depend on the shape of a batch.
    rows = [extractor.extract(images[first : first + 4])[layer] for first in range(0, 24, 4)]
    direct = FeatureSet(
        extractor.description, np.arange(24), {layer: np.concatenate(rows)}, "the images"
    )
    reference = ReferenceStatistics.load(Path(evaluation.reference))
    expected = compute_scores(direct, reference, SCORES)
    assert _scores(_request(sample_set, evaluation)) == expected


def test_features_are_stored_once_and_not_computed_again(
    sample_set: SampleSet, extractor: FeatureExtractor
) -> None:
    digest = extractor.description.digest
    images = SampleImages(sample_set)
    assert [part.number for part in parts_without_features(images, digest)] == [*range(6)]
    for part in images.parts[:4]:
        store_features(images, part, extract_part(images, part, extractor))
    assert [part.number for part in parts_without_features(images, digest)] == [4, 5]
    _extract(images, extractor)
    assert parts_without_features(images, digest) == []
    assert load_features(images, digest).ids.tolist() == list(range(24))


def test_features_of_another_extractor_or_other_samples_never_match(
    sample_set: SampleSet, extractor: FeatureExtractor, world: World
) -> None:
    digest = extractor.description.digest
    before = SampleImages(sample_set)
    _extract(before, extractor)
    assert len(parts_without_features(before, "0" * 64)) == 6

    sample_set.store.delete(sample_set.entries()[2].file)
    sample_set.store.delete("_shards/00002.json")
    _commit(sample_set, world, [2], seed=6)
    sample_set.finish()
    after = SampleImages(sample_set)
    assert features_key(digest, after.parts[2]) != features_key(digest, before.parts[2])
    assert [part.number for part in parts_without_features(after, digest)] == [2]


def test_an_incomplete_set_is_scored_only_when_allowed(
    world: World, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    header = checked(world.document).header
    made = SampleSet.create_or_resume(world.document["output"]["uri"], header)
    _commit(made, world, [0, 1, 3, 5])
    images = open_image_set(made.uri, allow_partial=True)
    _extract(images, extractor)
    with pytest.raises(SampleSetError, match=r"16 of 24 samples \(shards missing: 2, 4\)"):
        _scores(_request(made, evaluation))
    for score in _scores(_request(made, evaluation, allow_partial=True)):
        assert score.description.partial
        assert score.description.num_generated == 16


def test_a_set_without_all_its_features_is_not_scored(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    images = SampleImages(sample_set)
    store_features(images, images.parts[0], extract_part(images, images.parts[0], extractor))
    with pytest.raises(MetricError, match=r"_features/.*00001-.*does not exist"):
        _scores(_request(sample_set, evaluation))


def test_damaged_features_are_named(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    images = SampleImages(sample_set)
    _extract(images, extractor)
    key = features_key(extractor.description.digest, images.parts[3])
    sample_set.store.write_bytes(key, b"damaged")
    with pytest.raises(MetricError, match=r"00003-.*delete it to have the features computed again"):
        _scores(_request(sample_set, evaluation))


def test_an_extractor_is_identified_without_being_loaded(
    world: World, extractor: FeatureExtractor
) -> None:
    assert extractor_digest(_spec(world)) == extractor.description.digest


def test_an_image_text_encoder_has_no_choice_of_resize(world: World) -> None:
    spec = _spec(world).model_copy(update={"resize": "clean-bicubic"})
    for use in (extractor_digest, load_extractor):
        with pytest.raises(MetricError, match="an image-text encoder has its own"):
            use(spec)


def test_novelty_is_the_distance_to_neighbors_and_database(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec, world: World
) -> None:
    images = SampleImages(sample_set)
    _extract(images, extractor)
    names = ("novelty_neighbors", "novelty_database", "novelty_held_out")
    database = DatabaseSpec(uri=world.document["database"]["uri"])
    request = _request(
        sample_set, evaluation.model_copy(update={"scores": names}), database=database
    )
    scores = {score.id: score for score in _scores(request)}

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
    _extract(SampleImages(sample_set), load_extractor(spec))
    update = {"scores": ("novelty_database",), "extractor": spec}
    request = _request(
        sample_set,
        evaluation.model_copy(update=update),
        database=DatabaseSpec(uri=world.document["database"]["uri"]),
    )
    with pytest.raises(MetricError, match=r"it was built with tiny-clip .* one encoder on both"):
        _scores(request)


def test_novelty_without_a_database_says_what_is_missing(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    _extract(SampleImages(sample_set), extractor)
    update = {"scores": ("novelty_database",)}
    with pytest.raises(MetricError, match="not known which database"):
        _scores(_request(sample_set, evaluation.model_copy(update=update)))


def test_novelty_to_another_database_than_the_samples_own_is_refused(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec, tmp_path: Path
) -> None:
    _extract(SampleImages(sample_set), extractor)
    write_database(tmp_path / "other", proposal=False)
    update = {"scores": ("novelty_neighbors",)}
    request = _request(
        sample_set,
        evaluation.model_copy(update=update),
        database=DatabaseSpec(uri=str(tmp_path / "other")),
    )
    with pytest.raises(MetricError, match="needed the database they were made from"):
        _scores(request)


def test_images_alone_have_a_distance_to_a_database_but_no_neighbors(
    extractor: FeatureExtractor, evaluation: EvaluationSpec, world: World, tmp_path: Path
) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8))
    _extract(open_image_set(str(path)), extractor)

    def request(score: str) -> EvaluationRequest:
        asked = evaluation.model_copy(update={"scores": (score,)})
        database = DatabaseSpec(uri=world.document["database"]["uri"])
        return EvaluationRequest(str(path), asked, database)

    (score,) = _scores(request("novelty_database"))
    assert 0 < score.value < 2
    with pytest.raises(MetricError, match=r"novelty_neighbors of .* images alone; needed a sample"):
        _scores(request("novelty_neighbors"))


def test_held_out_images_need_not_be_the_reference(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec, world: World
) -> None:
    _extract(SampleImages(sample_set), extractor)
    held_out = open_image_set("shapes:held_out:7")
    _extract(held_out, extractor)
    update = {"scores": ("novelty_held_out",), "held_out": "shapes:held_out:7"}
    request = _request(
        sample_set,
        evaluation.model_copy(update=update),
        database=DatabaseSpec(uri=world.document["database"]["uri"]),
    )
    (score,) = _scores(request)
    assert score.description.num_reference == 7


def test_copies_are_told_by_the_distances_of_held_out_images(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec, world: World
) -> None:
    _extract(SampleImages(sample_set), extractor)
    held_out = open_image_set("shapes:held_out:120")
    _extract(held_out, extractor)
    names = ("novelty_neighbors", "novelty_held_out", "copy_share")
    request = _request(
        sample_set,
        evaluation.model_copy(update={"scores": names, "held_out": "shapes:held_out:120"}),
        database=DatabaseSpec(uri=world.document["database"]["uri"]),
    )
    evaluated = evaluate(request, _never)
    novelty = evaluated.judged[0].novelty
    assert novelty is not None
    assert novelty.neighbors is not None
    assert novelty.held_out is not None
    second = sorted(novelty.held_out.tolist())[1]
    expected = sum(distance < second for distance in novelty.neighbors.tolist()) / 24
    share = evaluated.scores[2]
    assert share.value == expected
    assert share.description.num_reference == 120
    assert share.description.settings["held_out"] == novelty.held_out_digest


def test_a_saved_reference_is_read_once_from_the_checks_to_the_scores(
    sample_set: SampleSet,
    extractor: FeatureExtractor,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _extract(SampleImages(sample_set), extractor)
    read = _count_reads(monkeypatch)
    reference = world.document["evaluation"]["reference"]
    document = world.job(
        evaluation__scores=["fid", "clip_fid", "recall", "novelty_held_out"],
        evaluation__encoder={"name": "tiny-clip", "weights": _spec(world).weights},
        evaluation__held_out=reference,
    )
    job = checked(document)
    assert job.spec.evaluation is not None
    request = _request(sample_set, job.spec.evaluation, database=job.spec.database)
    scores = evaluate(request, _never, sides=open_sides(request, job.references)).scores
    assert len(scores) == 4
    assert read == [Path(reference)]


def test_a_saved_reference_is_read_once_where_nothing_was_opened_before(
    sample_set: SampleSet,
    extractor: FeatureExtractor,
    evaluation: EvaluationSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _extract(SampleImages(sample_set), extractor)
    read = _count_reads(monkeypatch)
    _scores(_request(sample_set, evaluation))
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
    _extract(SampleImages(sample_set), extractor)
    (fid,) = _scores(_request(sample_set, evaluation.model_copy(update={"scores": ("fid",)})))
    encoder = EncoderSpec(name="tiny-clip", weights=_spec(world).weights)
    inception = ExtractorSpec(name="inception-v3-compat", weights="/nowhere.pth")
    for changes in (
        {},
        {"extractor": inception, "encoder": encoder},
    ):
        asked = evaluation.model_copy(update={"scores": ("clip_fid",)} | changes)
        (score,) = _scores(_request(sample_set, asked))
        assert score.value == fid.value
        assert score.description == fid.description.model_copy(update={"name": "clip_fid"})
    # Without an encoder of the evaluation's own the database's serves.
    asked = evaluation.model_copy(update={"scores": ("clip_fid",), "extractor": inception})
    database = DatabaseSpec(uri=world.document["database"]["uri"], encoder=encoder)
    (score,) = _scores(_request(sample_set, asked, database=database))
    assert score.value == fid.value
    with pytest.raises(MetricError, match="'clip_fid' is made with an image-text encoder"):
        _scores(_request(sample_set, asked))


@pytest.mark.parametrize("keep", [True, False], ids=["features", "moments"])
def test_saved_statistics_serve_as_samples(
    sample_set: SampleSet,
    extractor: FeatureExtractor,
    evaluation: EvaluationSpec,
    tmp_path: Path,
    keep: bool,
) -> None:
    images = SampleImages(sample_set)
    _extract(images, extractor)
    expected = {score.id: score for score in _scores(_request(sample_set, evaluation))}
    features = load_features(images, extractor.description.digest)
    ReferenceStatistics.from_features(features, keep).save(tmp_path / "samples.npz")

    names = SCORES if keep else ("fid",)
    asked = evaluation.model_copy(update={"scores": names})
    for score in _scores(EvaluationRequest(str(tmp_path / "samples.npz"), asked)):
        assert score.value == pytest.approx(expected[score.id].value, rel=MERGED_REL)
        assert score.description == expected[score.id].description
        assert (score.uncertainty is None) == (not keep)
    if not keep:
        with pytest.raises(MetricError, match="holds no features of layer"):
            _scores(EvaluationRequest(str(tmp_path / "samples.npz"), evaluation))


def test_saved_samples_of_another_extractor_are_refused(
    evaluation: EvaluationSpec, tmp_path: Path
) -> None:
    saved = ReferenceStatistics.from_features(feature_set(cloud(30, DIM, seed=0)))
    saved.save(tmp_path / "samples.npz")
    with pytest.raises(MetricError, match=r"saved features are those of test .*, not of tiny-clip"):
        _scores(EvaluationRequest(str(tmp_path / "samples.npz"), evaluation))


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
    (score,) = _scores(EvaluationRequest(str(tmp_path / "a.npz"), asked))
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
        _extract(open_image_set(sample_set.uri), extractor)


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
    _extract(SampleImages(made), extractor)
    update = {"scores": ("clip_score",)}
    (score,) = _scores(_request(made, evaluation.model_copy(update=update)))

    encoder = load_encoder(world.root / "clip.safetensors")
    texts = encoder.encode_texts(list(prompts))[np.arange(24) % 2]
    expected = clip_scores(encoder.encode_images(list(images)), texts).mean()
    assert score.value == pytest.approx(expected, rel=NETWORK_REL)


def test_clip_score_of_samples_without_prompts_is_refused(
    sample_set: SampleSet, extractor: FeatureExtractor, evaluation: EvaluationSpec
) -> None:
    _extract(SampleImages(sample_set), extractor)
    update = {"scores": ("clip_score",)}
    with pytest.raises(MetricError, match="24 of 24 samples have no prompt"):
        _scores(_request(sample_set, evaluation.model_copy(update=update)))
