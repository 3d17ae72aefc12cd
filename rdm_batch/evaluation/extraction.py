"""Extract the features a set of images lacks, by as many workers as are worth starting."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rdm_batch.cluster.local import LocalCluster
from rdm_batch.cluster.pool import Cluster, ClusterResources, Opened, WorkerNeeds
from rdm_batch.errors import MetricError
from rdm_batch.evaluation.evaluate import Evaluated, EvaluationRequest, evaluate, open_sides
from rdm_batch.evaluation.features import (
    extract_part,
    join_shards,
    parts_without_features,
    store_features,
)
from rdm_batch.heads.devices import require_device
from rdm_batch.inputs.encoders import SHIPPED_ENCODERS
from rdm_batch.inputs.extractors import extractor_digest, load_extractor
from rdm_batch.inputs.image_sets import ImagePart, ImageSet, SampleImages, open_image_set
from rdm_batch.inputs.references import OpenedReferences
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.specs.job import ExtractorSpec
from rdm_batch.storage.object_store import local_path

_LIGHT_BYTES = 16 << 20
_LIGHT_IMAGES = 4096
_HEAVY_IMAGES = 32

OnExtracted = Callable[[ImageSet, ExtractorSpec, int], None]


def images_per_worker(extractor: ExtractorSpec) -> int:
    """Say for how many images a worker of its own is worth its start of some seconds.

    The size of the weights tells small networks, of a millisecond an image, from large ones.

    Raises:
        MetricError: The weights are not there.
    """
    if extractor.name in SHIPPED_ENCODERS or extractor.weights is None:
        return _LIGHT_IMAGES
    size = local_path(extractor.weights, error=MetricError).stat().st_size
    return _LIGHT_IMAGES if size < _LIGHT_BYTES else _HEAVY_IMAGES


def workers_worth_starting(num_images: int, extractor: ExtractorSpec) -> int:
    """Say how many workers so many images are worth; with one, this process does as well.

    Raises:
        MetricError: The extractor's weights are not there.
    """
    return max(1, -(-num_images // images_per_worker(extractor)))


def run_evaluation(
    cluster: Cluster,
    request: EvaluationRequest,
    on_extracted: Callable[[int], None],
    references: OpenedReferences | None = None,
) -> Evaluated:
    """Score images.

    Args:
        cluster: Where features are extracted and parts of large scores computed.
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
        extract_features(cluster, images, extractor, counted)

    return evaluate(request, extract, cluster.tasks(), open_sides(request, references))


def extract_features(
    cluster: Cluster,
    images: ImageSet,
    extractor: ExtractorSpec,
    on_extracted: OnExtracted,
    max_workers: int | None = None,
) -> None:
    """Extract and store the features a set lacks.

    Args:
        cluster: Where workers live, unless there is too little to do for more than this process.
        images: The set.
        extractor: What computes the features.
        on_extracted: Called whenever features of some images are stored, first with those that
            were stored before.
        max_workers: Most workers to start. None: as many as the cluster has room for.

    Raises:
        RdmBatchError: An image cannot be used, or the extractor cannot be loaded.
    """
    digest = extractor_digest(extractor)
    join_shards(images, digest)
    waiting = parts_without_features(images, digest)
    lacking = sum(part.num_images for part in waiting)
    on_extracted(images, extractor, images.num_images - lacking)
    if not waiting:
        return
    wanted = workers_worth_starting(lacking, extractor)
    num_gpus = 1.0 if cluster.resources.num_gpus else 0.0
    if wanted == 1 and not isinstance(cluster, LocalCluster):
        # The GPUs of a cluster belong to whoever reserves them, and this process has not.
        cluster, num_gpus = LocalCluster(), 0.0
    needs = WorkerNeeds(num_gpus=num_gpus, ahead=1)
    room = max_workers or _room(cluster.resources)
    again = partial(open_image_set, images.uri, allow_partial=True, resize=images.resize)
    worker = partial(ExtractorWorker, Opened(images, again), extractor, needs.device)
    with cluster.workers(worker, max(1, min(room, len(waiting), wanted)), needs) as pool:
        extracted = pool.map(ExtractorWorker.extract, waiting, where=lambda _: "feature extraction")
        for part, features in extracted:
            if features is not None:
                store_features(images, part, features)
            on_extracted(images, extractor, part.num_images)


def _room(resources: ClusterResources) -> int:
    return int(resources.num_gpus or resources.num_cpus)


class ExtractorWorker:
    """Hold a feature extractor, and extract parts of a set.

    Args:
        images: The set.
        extractor: What computes the features.
        device: What it reserved, ``cpu`` or ``cuda``.
        number: Number of this worker.
    """

    def __init__(
        self, images: Opened[ImageSet], extractor: ExtractorSpec, device: str, number: int
    ) -> None:
        self._images = images.thing
        self._extractor = load_extractor(extractor, require_device(device))

    def extract(self, part: ImagePart) -> FeatureSet | None:
        """Extract a part; store it where every node can, else give it back."""
        features = extract_part(self._images, part, self._extractor)
        if not isinstance(self._images, SampleImages):
            return features
        store_features(self._images, part, features)
        return None
