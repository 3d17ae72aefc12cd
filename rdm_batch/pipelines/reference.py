"""Build the reference a sample set is judged against."""

from __future__ import annotations

import numpy as np

from rdm_batch.engine.build import head_device
from rdm_batch.engine.extractors import load_extractor
from rdm_batch.errors import MetricError
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.pipelines.image_sources import open_images
from rdm_batch.reports.progress import Progress
from rdm_batch.storage.object_store import open_store
from rdm_batch.storage.temporary import stored_file

_BATCH = 256


def build_reference(
    images: str, out: str, extractor_name: str, extractor_weights: str | None
) -> ReferenceStatistics:
    """Extract the features of reference images and store them with their moments.

    Args:
        images: What ``pipelines.image_sources.open_images`` opens; images of any one size.
        out: URI of the ``.npz`` to write.
        extractor_name: As in a job's ``evaluation.extractor``.
        extractor_weights: URI of its weights; None for what ships with this package.

    Raises:
        RdmBatchError: The images or the extractor cannot be used, or something is stored at
            ``out`` already.
    """
    folder, _, name = out.rpartition("/")
    store = open_store(folder or ".", MetricError)
    if store.exists(name):
        raise MetricError(out, "exists already", "a new name", "remove it to build it again")
    source, _ = open_images(images)
    extractor = load_extractor(extractor_name, extractor_weights, head_device())
    parts = []
    with Progress() as progress:
        stage = progress.stage("features", len(source), "images")
        for start in range(0, len(source), _BATCH):
            stop = min(start + _BATCH, len(source))
            batch = np.stack([source[position].image for position in range(start, stop)])
            parts.append(extractor.extract(batch))
            stage.advance(stop - start)
    layers = {layer: np.concatenate([part[layer] for part in parts]) for layer in parts[0]}
    ids = np.arange(len(source), dtype=np.int64)
    features = FeatureSet(extractor.description, ids, layers, images)
    reference = ReferenceStatistics.from_features(features)
    with stored_file(store, name) as path:
        reference.save(path)
    return reference
