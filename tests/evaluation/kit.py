"""What tests of evaluations share: a small complete set, and its features."""

from __future__ import annotations

from typing import Any

import numpy as np

from rdm_batch.evaluation.evaluate import EvaluationRequest, evaluate
from rdm_batch.evaluation.features import extract_part, store_features
from rdm_batch.generation.modes.unconditional import UnconditionalConditioner
from rdm_batch.generation.plan import plan_shards
from rdm_batch.generation.renderer import ContextSource, ShardClock, ShardRenderer, drawn_shard
from rdm_batch.heads.null import NullHead
from rdm_batch.inputs.databases import open_database
from rdm_batch.inputs.image_sets import ImageSet
from rdm_batch.metrics.features import FeatureExtractor
from rdm_batch.retrieval.proposal import every_row
from rdm_batch.specs.job import EvaluationSpec, ExtractorSpec
from rdm_batch.specs.load import parse_job
from rdm_batch.specs.scores import Score
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.sample_set import SampleSet
from tests.job_kit import DIM, ROWS
from tests.worlds import World


def extractor_of(world: World) -> ExtractorSpec:
    return ExtractorSpec(name="tiny-clip", weights=str(world.root / "clip.safetensors"))


def extract(images: ImageSet, extractor: FeatureExtractor) -> None:
    for part in reversed(images.parts):
        store_features(images, part, extract_part(images, part, extractor))


def never(images: ImageSet, extractor: ExtractorSpec) -> None:
    """Stand for features that must be there already."""


def commit(sample_set: SampleSet, world: World, shards: list[int], seed: int = 5) -> None:
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


def images_of(sample_set: SampleSet) -> np.ndarray:
    rows = [row for batch in sample_set.iter_batches(["image"]) for row in batch.to_pylist()]
    return np.stack([decode_png(row["image"]["bytes"]) for row in rows])


def scores_of(request: EvaluationRequest) -> list[Score]:
    return list(evaluate(request, never).scores)


def request_for(
    sample_set: SampleSet, evaluation: EvaluationSpec, **more: Any
) -> EvaluationRequest:
    return EvaluationRequest(sample_set.uri, evaluation, **more)
