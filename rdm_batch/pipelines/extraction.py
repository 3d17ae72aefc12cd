"""Extract features in this process, without Ray; and say when that is enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rdm_batch.engine.build import head_device
from rdm_batch.engine.features import extract_part, parts_without_features, store_features
from rdm_batch.errors import MetricError
from rdm_batch.inputs.encoders import SHIPPED_ENCODERS
from rdm_batch.inputs.extractors import extractor_digest, load_extractor
from rdm_batch.inputs.image_sets import ImagePart, ImageSet
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


def missing_parts(
    images: ImageSet, extractor: ExtractorSpec, on_extracted: OnExtracted
) -> Sequence[ImagePart]:
    """List the parts a set lacks features of, and report the others as done."""
    missing = parts_without_features(images, extractor_digest(extractor))
    lacking = sum(part.num_images for part in missing)
    on_extracted(images, extractor, images.num_images - lacking)
    return missing


def extract_here(
    images: ImageSet,
    extractor: ExtractorSpec,
    parts: Sequence[ImagePart],
    on_extracted: OnExtracted,
) -> None:
    """Extract and store the features of some parts, one after the other.

    Args:
        images: The set.
        extractor: What computes the features.
        parts: Parts without features.
        on_extracted: Called whenever features of some images are stored.

    Raises:
        RdmBatchError: An image cannot be used, or the extractor cannot be loaded.
    """
    if not parts:
        return
    loaded = load_extractor(extractor, head_device())
    for part in parts:
        store_features(images, part, extract_part(images, part, loaded))
        on_extracted(images, extractor, part.num_images)
