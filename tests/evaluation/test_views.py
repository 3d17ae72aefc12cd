from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_batch.cluster.local import LocalCluster
from rdm_batch.evaluation.evaluate import Evaluated, EvaluationRequest, evaluate
from rdm_batch.evaluation.extraction import extract_features
from rdm_batch.evaluation.views import look_at
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.image_sets import ImageSet
from rdm_batch.specs.job import DatabaseSpec, EvaluationSpec, ExtractorSpec
from rdm_batch.storage.manifest import SampleSetHeader
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.table import make_table
from tests.job_kit import ROWS, write_database, write_encoder

NUM_SAMPLES = 30
NOVELTY = ("novelty_neighbors", "novelty_database")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def extractor(tmp_path: Path) -> ExtractorSpec:
    return ExtractorSpec(
        name="tiny-clip", weights=str(write_encoder(tmp_path / "clip.safetensors"))
    )


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUM_SAMPLES, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def samples(tmp_path: Path, pixels: np.ndarray) -> str:
    """A set of 30 samples, each conditioned on two rows."""
    header = SampleSetHeader(
        spec={}, digest="0" * 64, seed=1, num_samples=NUM_SAMPLES, shard_size=8, image_size=16
    )
    made = SampleSet.create_or_resume(str(tmp_path / "set"), header)
    for shard in range(header.num_shards):
        rows = np.array(header.rows_of(shard))
        ids = np.stack([rows % ROWS, (rows + 1) % ROWS], axis=1)
        table = make_table(
            sample_indices=rows,
            images=[encode_png(pixels[row]) for row in rows],
            seed=1,
            neighbor_ids=ids,
            neighbor_scores=np.zeros(ids.shape, np.float32),
        )
        made.commit_shard(shard, table)
    made.finish()
    return made.uri


def _evaluated(samples: str, extractor: ExtractorSpec, *scores: str) -> Evaluated:
    evaluation = EvaluationSpec(reference="shapes:reference:80", scores=scores, extractor=extractor)
    database = None
    if any(name in NOVELTY for name in scores):
        database = DatabaseSpec(uri=str(Path(samples).parent / "database"))
        write_database(Path(database.uri))

    def extract(images: ImageSet, used: ExtractorSpec) -> None:
        extract_features(LocalCluster(), images, used, lambda *_: None)

    return evaluate(EvaluationRequest(samples, evaluation, database), extract)


def _image(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_everything_that_is_named_has_its_own_picture(
    samples: str, extractor: ExtractorSpec, pixels: np.ndarray
) -> None:
    evaluated = _evaluated(samples, extractor, "precision", "recall", *NOVELTY)
    views, pictures = look_at(evaluated, Database.open(str(Path(samples).parent / "database")))
    strips = [*views.most_novel, *views.least_novel]
    assert len(strips) == 12
    assert views.map is not None
    named = {item.sample_index for item in strips} | set(views.map.outside)
    named |= {index for region in views.regions for index in region.samples}
    assert set(pictures.samples) == named
    for index, png in pictures.samples.items():
        np.testing.assert_array_equal(_image(png), pixels[index])
    rows = {item.nearest_id for item in strips} | {item.neighbor_id for item in strips}
    assert set(pictures.neighbors) == rows
    references = {row for region in views.regions for row in region.references}
    assert set(pictures.references) == references | set(views.map.unreached)


def test_strips_go_from_the_farthest_and_from_the_nearest(
    samples: str, extractor: ExtractorSpec
) -> None:
    evaluated = _evaluated(samples, extractor, *NOVELTY)
    views, _ = look_at(evaluated, Database.open(str(Path(samples).parent / "database")))
    (part,) = evaluated.judged
    assert part.novelty is not None
    assert part.novelty.nearest is not None
    ordered = np.sort(part.novelty.nearest)
    assert [item.nearest_distance for item in views.least_novel] == ordered[:6].tolist()
    assert [item.nearest_distance for item in views.most_novel] == ordered[::-1][:6].tolist()
    for item in views.most_novel:
        assert item.neighbor_distance is not None
        assert item.neighbor_distance >= item.nearest_distance
        # Neighbors of sample i are rows i and i + 1.
        assert item.neighbor_id in (item.sample_index, item.sample_index + 1)
    # No reference was needed, so nothing is known of how the samples lie in it.
    assert views.map is None
    assert views.regions == ()


def test_the_map_tells_inside_from_outside_as_the_scores_do(
    samples: str, extractor: ExtractorSpec
) -> None:
    evaluated = _evaluated(samples, extractor, "precision", "recall")
    views, _ = look_at(evaluated, None)
    precision, recall = (score.value for score in evaluated.scores)
    assert views.map is not None
    assert views.map.num_outside == round(NUM_SAMPLES * (1 - precision))
    assert views.map.num_unreached == round(80 * (1 - recall))
    assert np.mean(views.map.samples.inside) == pytest.approx(precision)
    assert np.mean(views.map.references.inside) == pytest.approx(recall)


def test_regions_count_every_image_and_come_seldom_first(
    samples: str, extractor: ExtractorSpec
) -> None:
    views, _ = look_at(_evaluated(samples, extractor, "fid"), None)
    assert sum(region.num_samples for region in views.regions) == NUM_SAMPLES
    assert sum(region.num_references for region in views.regions) == 80
    rates = [region.num_samples / region.num_references for region in views.regions]
    assert rates == sorted(rates)
    assert sum(map(views.expected, views.regions)) == pytest.approx(NUM_SAMPLES)
    assert views.map is not None
    assert views.map.samples.inside == ()


def test_saved_statistics_have_a_map_but_no_pictures(
    samples: str, extractor: ExtractorSpec, tmp_path: Path
) -> None:
    first = _evaluated(samples, extractor, "fid")
    (part,) = first.judged
    assert part.reference is not None
    # Statistics of images that nothing is known about but a name.
    saved = type(part.reference)(
        part.reference.extractor,
        "somewhere else",
        part.reference.moments,
        part.reference.features,
        part.reference.digest,
    )
    saved.save(tmp_path / "reference.npz")
    evaluation = EvaluationSpec(
        reference=str(tmp_path / "reference.npz"), scores=("fid",), extractor=extractor
    )
    again = evaluate(EvaluationRequest(samples, evaluation), lambda *_: None)
    views, pictures = look_at(again, None)
    assert views.map is not None
    assert pictures.references == {}
    assert pictures.samples
