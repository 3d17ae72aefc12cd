"""Features that heads extract while they draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rdm_batch
from rdm_batch.evaluation import extraction, inline
from rdm_batch.evaluation.features import FEATURES_FOLDER
from rdm_batch.evaluation.inline import InlineExtractors
from rdm_batch.inputs.extractors import load_extractor
from rdm_batch.inputs.image_sets import SampleImages, shard_part
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.reports.run_report import RunReport
from rdm_batch.specs.image_resize import ImageResize
from rdm_batch.specs.job import ExtractorSpec
from rdm_batch.specs.load import parse_job
from rdm_batch.storage.sample_set import SampleSet
from tests.worlds import World


def _run(world: World, name: str, **evaluation: Any) -> tuple[RunReport, dict[str, Path]]:
    """Run a job; give its report, and the files of its features by name."""
    output = {"uri": str(world.root / name), "shard_size": 4}
    document = world.job(output=output)
    document["evaluation"] = {
        "reference": "shapes:held_out:24",
        "scores": ["fid"],
        "extractor": {"name": "shapes-clip"},
        **evaluation,
    }
    report = rdm_batch.run(parse_job(document, "job"), address="none")
    stored = (world.root / name / FEATURES_FOLDER).rglob("*.npz")
    return report, {path.name: path for path in stored}


def _no_second_pass(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    extract = extraction.extract_part

    def refuse(images: Any, *rest: Any) -> FeatureSet:
        assert not images.uri.startswith(str(world.root)), "samples are looked at again"
        return extract(images, *rest)

    monkeypatch.setattr(extraction, "extract_part", refuse)


@pytest.fixture(scope="module")
def afterwards(built_world: World) -> tuple[RunReport, dict[str, Path]]:
    """Run a job whose samples are judged when they are all there, shard by shard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rdm_batch.inputs.image_sets.SET_PART_IMAGES", 4)
        return _run(built_world, "afterwards")


def test_what_is_stored_while_drawing_is_what_an_evaluation_stores(
    built_world: World,
    afterwards: tuple[RunReport, dict[str, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rdm_batch.inputs.image_sets.SET_PART_IMAGES", 4)
    _no_second_pass(monkeypatch, built_world)
    report, found = _run(built_world, "inline", inline=True)
    expected_report, expected = afterwards
    assert len(found) == 6
    assert found.keys() == expected.keys()
    for name, path in found.items():
        mine, its = FeatureSet.load(path), FeatureSet.load(expected[name])
        assert mine.extractor == its.extractor
        assert (mine.ids == its.ids).all()
        for layer, rows in its.layers.items():
            np.testing.assert_array_equal(mine.layers[layer], rows)
    assert [score.value for score in report.scores] == [
        score.value for score in expected_report.scores
    ]


def test_small_shards_are_put_together_as_an_evaluation_reads_them(
    built_world: World,
    afterwards: tuple[RunReport, dict[str, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _no_second_pass(monkeypatch, built_world)
    report, found = _run(built_world, "joined", inline=True)
    assert len(found) == 6 + 1
    assert report.scores[0].value == pytest.approx(afterwards[0].scores[0].value, rel=1e-6)


def test_features_lost_with_a_head_are_extracted_afterwards(
    built_world: World,
    afterwards: tuple[RunReport, dict[str, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, calls = inline.store_part, []

    def lose(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > 2:
            store(*arguments)

    monkeypatch.setattr(inline, "store_part", lose)
    monkeypatch.setattr("rdm_batch.inputs.image_sets.SET_PART_IMAGES", 4)
    report, found = _run(built_world, "lost", inline=True)
    assert len(calls) == 6
    assert found.keys() == afterwards[1].keys()
    assert report.scores[0].value == afterwards[0].scores[0].value


def test_images_are_brought_to_the_size_they_are_judged_at(
    built_world: World, afterwards: tuple[RunReport, dict[str, Path]]
) -> None:
    sample_set = SampleSet.open(str(built_world.root / "afterwards"))
    entry = sample_set.entries()[0]
    for size in (20, sample_set.header.image_size):
        job = parse_job(built_world.document, "job")
        assert job.evaluation is not None
        resize = ImageResize(size=size)
        evaluation = job.evaluation.model_copy(
            update={"resize": resize, "extractor": ExtractorSpec(name="shapes-clip")}
        )
        images = SampleImages(sample_set, resize)
        ids, drawn = next(SampleImages(sample_set).batches(images.parts[0]))
        extractors = InlineExtractors(sample_set, evaluation, job.database, "cpu")
        count = entry.num_rows
        (found,) = extractors.extract(ids[:count], drawn[:count])
        _, judged = next(images.batches(images.parts[0]))
        expected = load_extractor(evaluation.extractor).extract(judged[:count])
        for layer, rows in expected.items():
            np.testing.assert_allclose(found.layers[layer], rows, rtol=1e-5, atol=1e-6)
        assert (
            shard_part(entry, sample_set.header.image_size, resize)
            == images.shards_of(images.parts[0])[0]
        )
