"""Extract features on a pool of actors, compute scores in tasks; Ray is running already."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import ray

from rdm_batch.engine.build import head_device
from rdm_batch.engine.evaluation import Evaluated, EvaluationRequest, evaluate, open_sides
from rdm_batch.engine.features import extract_part, store_features
from rdm_batch.inputs.extractors import load_extractor
from rdm_batch.inputs.image_sets import ImagePart, ImageSet, SampleImages, open_image_set
from rdm_batch.inputs.references import OpenedReferences
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.tasks import HERE
from rdm_batch.pipelines.extraction import (
    OnExtracted,
    extract_here,
    images_per_worker,
    missing_parts,
)
from rdm_batch.pipelines.generate import result_of
from rdm_batch.pipelines.heads import stop
from rdm_batch.pipelines.retrievers import RESTARTS
from rdm_batch.specs.job import ExtractorSpec

_LEAST_SHARED_BYTES = 32 << 20
"""Sending smaller arrays to tasks takes longer than computing with them here."""

Result = TypeVar("Result")


def run_evaluation(
    request: EvaluationRequest,
    on_extracted: Callable[[int], None],
    references: OpenedReferences | None = None,
) -> Evaluated:
    """Score images, on a Ray that is running already.

    Args:
        request: What to judge and how.
        on_extracted: Called with a number of samples whenever their features are stored.
        references: What is open already of what they are judged against. None opens it here.

    Raises:
        RdmBatchError: The images cannot be used, or a score cannot be computed.
    """

    def counted(images: ImageSet, extractor: ExtractorSpec, count: int) -> None:
        own = extractor == request.evaluation.extractor
        if own and images.uri == request.samples:
            on_extracted(count)

    def extract(images: ImageSet, extractor: ExtractorSpec) -> None:
        extract_on_cluster(images, extractor, counted)

    return evaluate(request, extract, RayTasks(), open_sides(request, references))


def extract_on_cluster(
    images: ImageSet,
    extractor: ExtractorSpec,
    on_extracted: OnExtracted,
    max_actors: int | None = None,
) -> None:
    """Extract and store the features a set lacks, by as many actors as are worth starting.

    Args:
        images: The set.
        extractor: What computes the features.
        on_extracted: Called whenever features of some images are stored.
        max_actors: Most actors to start. None: as many as the cluster has room for.

    Raises:
        RdmBatchError: An image cannot be used, or the extractor cannot be loaded.
    """
    waiting = missing_parts(images, extractor, on_extracted)
    count = sum(part.num_images for part in waiting)
    if count <= images_per_worker(extractor):
        extract_here(images, extractor, waiting, on_extracted)
        return
    total = ray.cluster_resources()
    num_gpus = 1 if total.get("GPU", 0) else 0
    room = max_actors or int(total.get("GPU" if num_gpus else "CPU", 1))
    wanted = -(-count // images_per_worker(extractor))
    actor: Any = ray.remote(
        max_restarts=RESTARTS, max_task_retries=RESTARTS, num_cpus=1, num_gpus=num_gpus
    )(ExtractorActor)
    actors = [
        actor.remote(images.uri, extractor) for _ in range(max(1, min(room, len(waiting), wanted)))
    ]
    try:
        for part, features in _extracted(actors, waiting):
            if features is not None:
                store_features(images, part, features)
            on_extracted(images, extractor, part.num_images)
    finally:
        stop(actors)


class ExtractorActor:
    """Hold a feature extractor; ``extract_on_cluster`` makes actors of it."""

    def __init__(self, uri: str, extractor: ExtractorSpec) -> None:
        self._images = open_image_set(uri, allow_partial=True)
        self._extractor = load_extractor(extractor, head_device())

    def extract(self, part: ImagePart) -> FeatureSet | None:
        """Extract a part; store it where every node can, else give it back."""
        features = extract_part(self._images, part, self._extractor)
        if not isinstance(self._images, SampleImages):
            return features
        store_features(self._images, part, features)
        return None


def _extracted(
    actors: Sequence[Any], parts: Sequence[ImagePart]
) -> Iterator[tuple[ImagePart, FeatureSet | None]]:
    waiting = deque(parts)
    running: dict[Any, tuple[Any, ImagePart]] = {}

    def hand_out(actor: Any) -> None:
        if waiting:
            part = waiting.popleft()
            running[actor.extract.remote(part)] = (actor, part)

    for actor in [*actors, *actors]:
        hand_out(actor)
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        actor, part = running.pop(done)
        hand_out(actor)
        yield part, result_of(done, "feature extraction")


class RayTasks:
    """Run calls as Ray tasks, the arrays they share sent to each node once."""

    def __init__(self) -> None:
        self.num_tasks = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def __call__(
        self,
        function: Callable[..., Result],
        shared: Sequence[np.ndarray],
        items: Sequence[Any],
    ) -> Iterable[Result]:
        """Return ``function(*shared, item)`` for each item, in the order they finish."""
        if sum(array.nbytes for array in shared) < _LEAST_SHARED_BYTES:
            yield from HERE(function, shared, items)
            return
        arrays = [ray.put(array) for array in shared]
        call: Any = ray.remote(num_cpus=1, max_retries=RESTARTS)(_call)
        running = [call.remote(function, item, *arrays) for item in items]
        while running:
            (done,), running = ray.wait(running, num_returns=1)
            yield result_of(done, "scores")


def _call(function: Callable[..., Result], item: Any, *shared: np.ndarray) -> Result:
    return function(*shared, item)
