"""Features of image sets: computed once, part by part, kept, and read back."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from rdm_batch.errors import MetricError
from rdm_batch.inputs.image_sets import Batch, ImagePart, ImageSet, SampleImages
from rdm_batch.metrics.features import FeatureExtractor, FeatureSet
from rdm_batch.storage.object_store import local_path
from rdm_batch.storage.store import Store, stored_file

FEATURES_FOLDER = "_features"


def features_key(digest: str, part: ImagePart) -> str:
    """Name the features of a part, below the store of its set.

    The part's own digest is in the name: features of other images never match.
    """
    return f"{FEATURES_FOLDER}/{digest[:16]}/{part.number:05d}-{part.digest[:16]}.npz"


def parts_without_features(images: ImageSet, digest: str) -> list[ImagePart]:
    """List the parts whose features are not stored yet."""
    stored = {item.key for item in images.store.list_objects(FEATURES_FOLDER)}
    return [part for part in images.parts if features_key(digest, part) not in stored]


def extract_part(images: ImageSet, part: ImagePart, extractor: FeatureExtractor) -> FeatureSet:
    """Compute the features of one part; a batch is decoded while the one before is computed.

    Raises:
        RdmBatchError: An image cannot be used.
    """
    return extract_batches(_ahead(images.batches(part)), extractor, images.uri)


def extract_batches(
    batches: Iterator[Batch], extractor: FeatureExtractor, source: str
) -> FeatureSet:
    """Compute the features of images in batches.

    Args:
        batches: Ids and images, at least one batch.
        extractor: Computes the features.
        source: Where the images came from, for messages.
    """
    ids, rows = [], []
    for batch_ids, batch in batches:
        ids.append(batch_ids)
        rows.append(extractor.extract(batch))
    layers = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return FeatureSet(extractor.description, np.concatenate(ids), layers, source)


def store_features(images: ImageSet, part: ImagePart, features: FeatureSet) -> None:
    """Keep the features of one part."""
    store_part(images.store, part, features)


def store_part(store: Store, part: ImagePart, features: FeatureSet) -> None:
    """Keep the features of one part in the store of its set."""
    key = features_key(features.extractor.digest, part)
    with stored_file(store, key) as path:
        features.save(path)


def join_shards(images: ImageSet, digest: str) -> None:
    """Put the features of small shards together that were extracted one by one.

    Heads that extract while they draw know one shard at a time; shards below
    ``SET_PART_IMAGES`` are judged as parts of several.

    Args:
        images: The set.
        digest: Digest of the extractor.

    Raises:
        MetricError: Stored features are damaged.
    """
    if not isinstance(images, SampleImages):
        return
    stored = {item.key for item in images.store.list_objects(FEATURES_FOLDER)}
    for part in images.parts:
        if features_key(digest, part) in stored:
            continue
        keys = [features_key(digest, shard) for shard in images.shards_of(part)]
        if stored.issuperset(keys):
            found = [
                FeatureSet.load(local_path(images.store.child_uri(key), error=MetricError))
                for key in keys
            ]
            store_part(images.store, part, FeatureSet.concatenate(found, images.uri))


def load_features(images: ImageSet, digest: str, without: Collection[str] = ()) -> FeatureSet:
    """Read the stored features of a whole set.

    Args:
        images: The set.
        digest: Digest of the extractor.
        without: Layers that are not read.

    Raises:
        MetricError: Features of a part are missing or damaged.
    """
    parts = []
    for part in images.parts:
        stored = images.store.child_uri(features_key(digest, part))
        parts.append(FeatureSet.load(local_path(stored, error=MetricError), without))
    whole = FeatureSet.concatenate(parts, images.uri)
    return whole if images.resize is None else replace(whole, images=images.resize.describe())


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch
