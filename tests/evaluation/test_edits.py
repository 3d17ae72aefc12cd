"""Scores of whole sets of edits, against what the encoder says of their pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import rdm_batch
from rdm_batch.errors import MetricError
from rdm_batch.evaluation.evaluate import EvaluationRequest
from rdm_batch.inputs.encoders import load_named_encoder
from rdm_batch.metrics.edits import outside_distances
from rdm_batch.reports.saved import load_run
from rdm_batch.specs.job import EvaluationSpec
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.sample_set import SampleSet
from tests.evaluation.kit import extractor_of, scores_of
from tests.worlds import World, assert_says, problem_of

SCORES = ["edit_clip_direction", "preservation", "preservation_outside"]


def _job(world: World, tmp_path: Path, *captions: str | None) -> dict[str, Any]:
    rows = []
    for number in range(len(captions)):
        random = np.random.default_rng(number)
        buffer = io.BytesIO()
        pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": f"{number}.png"})
    table = pa.table({"image": rows, "caption": pa.array(captions, pa.string())})
    pq.write_table(table, tmp_path / "given.parquet")
    conditioning = {
        "mode": "edit",
        "k_nn": 3,
        "images": str(tmp_path / "given.parquet"),
        "prompts": ["a red circle", "a blue square"],
        "edit": {"method": "sdedit", "strength": 0.7},
    }
    job = world.job(conditioning=conditioning)
    job["evaluation"]["scores"] = SCORES
    return job


def test_edits_are_judged_with_their_job_and_later(world: World, tmp_path: Path) -> None:
    job = _job(world, tmp_path, "a blue circle", None, "a red square")
    rdm_batch.run(rdm_batch.load_job(job), address="none")
    out = job["output"]["uri"]
    found = {score.id: score for score in load_run(out).report.scores}
    rows = [row for batch in SampleSet.find(out).iter_batches() for row in batch.to_pylist()]
    images, sources = (
        np.stack([decode_png(row[name]["bytes"]) for row in rows]) for name in ("image", "source")
    )
    extractor = extractor_of(world)
    encoder = load_named_encoder(extractor.name, extractor.weights)
    shown, given = (encoder.encode_images(list(part)) for part in (images, sources))
    asked = encoder.encode_texts([row["prompt"] for row in rows])
    said = encoder.encode_texts([row["source_caption"] or "an image" for row in rows])
    unit = [F.normalize(torch.from_numpy(part)) for part in (shown, given, asked, said)]
    directions = F.cosine_similarity(unit[0] - unit[1], unit[2] - unit[3])
    distances = (unit[0] - unit[1]).square().sum(1) / 2
    assert found[SCORES[0]].value == pytest.approx(directions.mean().item(), abs=1e-4)
    assert found[SCORES[1]].value == pytest.approx(distances.mean().item(), abs=1e-5)
    outside = outside_distances(images, sources)
    assert found[SCORES[2]].value == pytest.approx(outside.mean())
    names = np.array([row["query"] for row in rows])
    means = [(outside[names == name] - outside.mean()).sum() for name in np.unique(names)]
    assert found[SCORES[2]].uncertainty == pytest.approx(
        np.sqrt(3 / 2 * np.square(means).sum()) / 24
    )
    assert found[SCORES[2]].description.extractor is None
    again = EvaluationRequest(
        out,
        EvaluationSpec(reference=out, scores=tuple(SCORES), extractor=extractor),
    )
    assert [score.value for score in scores_of(again)] == [found[name].value for name in SCORES]


def test_captions_that_the_encoder_cannot_read_are_refused_at_once(
    world: World, tmp_path: Path
) -> None:
    message = problem_of(_job(world, tmp_path, "a red circle", "a marvel", None))
    assert_says(message, "evaluation.scores edit_clip_direction, captions", "marvel")


def test_scores_of_edits_need_edits(world: World, tmp_path: Path) -> None:
    job = world.text_job("a red circle")
    job["evaluation"]["scores"] = ["preservation"]
    assert_says(problem_of(job), "preservation compares samples with what they are edits of")
    job["evaluation"] = None
    rdm_batch.run(rdm_batch.load_job(job), address="none")
    out = job["output"]["uri"]
    evaluation = EvaluationSpec(
        reference=out, scores=("preservation",), extractor=extractor_of(world)
    )
    with pytest.raises(MetricError, match=r"preservation of .*: its samples were made from noth"):
        scores_of(EvaluationRequest(out, evaluation))
