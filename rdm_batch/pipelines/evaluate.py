"""Extract the features of a sample set on a pool of actors, then score it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray

from rdm_batch.engine.build import head_device
from rdm_batch.engine.evaluation import extract_shard, score_set, shards_without_features
from rdm_batch.engine.extractors import extractor_digest, load_extractor
from rdm_batch.metrics.score import Score
from rdm_batch.pipelines.generate import result_of
from rdm_batch.pipelines.heads import stop
from rdm_batch.pipelines.retrievers import RESTARTS
from rdm_batch.specs.job import EvaluationSpec, ExtractorSpec
from rdm_batch.storage.manifest import ShardEntry
from rdm_batch.storage.sample_set import SampleSet

_PIXELS_PER_ACTOR = 2_000 * 32 * 32
"""Starting an extractor takes seconds; fewer pixels than this are done before it has started."""


class ExtractorActor:
    """Hold a feature extractor; ``run_evaluation`` makes actors of it."""

    def __init__(self, uri: str, extractor: ExtractorSpec) -> None:
        self._set = SampleSet.open(uri)
        self._extractor = load_extractor(extractor.name, extractor.weights, head_device())

    def extract(self, entry: ShardEntry) -> int:
        """Extract and store the features of a shard; give its number of samples."""
        extract_shard(self._set, entry, self._extractor)
        return entry.num_rows


@ray.remote(num_cpus=1, max_retries=RESTARTS)
def _score(uri: str, evaluation: EvaluationSpec) -> Sequence[Score]:
    return score_set(uri, evaluation)


def run_evaluation(
    uri: str, evaluation: EvaluationSpec, on_extracted: Callable[[int], None]
) -> Sequence[Score]:
    """Score a complete sample set, on a Ray that is running already.

    Features that are stored beside the set are not computed again.

    Args:
        uri: The sample set.
        evaluation: Reference, scores and extractor.
        on_extracted: Called with a number of samples whenever their features are stored.

    Raises:
        RdmBatchError: The set is incomplete, or a score cannot be computed.
    """
    sample_set = SampleSet.open(uri)
    extractor = evaluation.extractor
    digest = extractor_digest(extractor.name, extractor.weights)
    waiting = deque(shards_without_features(sample_set, digest))
    on_extracted(sample_set.header.num_samples - sum(entry.num_rows for entry in waiting))
    if waiting:
        pixels = sum(entry.num_rows for entry in waiting) * sample_set.header.image_size**2
        _extract(_start_extractors(uri, extractor, pixels, len(waiting)), waiting, on_extracted)
    scores: Sequence[Score] = result_of(_score.remote(uri, evaluation), f"scores of {uri}")
    return scores


def _start_extractors(
    uri: str, extractor: ExtractorSpec, pixels: int, num_shards: int
) -> list[Any]:
    total = ray.cluster_resources()
    num_gpus = 1 if total.get("GPU", 0) else 0
    room = int(total.get("GPU" if num_gpus else "CPU", 1))
    count = max(1, min(room, num_shards, math.ceil(pixels / _PIXELS_PER_ACTOR)))
    actor: Any = ray.remote(
        max_restarts=RESTARTS, max_task_retries=RESTARTS, num_cpus=1, num_gpus=num_gpus
    )(ExtractorActor)
    return [actor.remote(uri, extractor) for _ in range(count)]


def _extract(
    actors: Sequence[Any], waiting: deque[ShardEntry], on_extracted: Callable[[int], None]
) -> None:
    running: dict[Any, Any] = {}
    try:
        for actor in [*actors, *actors]:
            if waiting:
                running[actor.extract.remote(waiting.popleft())] = actor
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(done[0])
            on_extracted(result_of(done[0], "feature extraction"))
            if waiting:
                running[actor.extract.remote(waiting.popleft())] = actor
    finally:
        stop(actors)
