"""What people look at after an evaluation: a plane, regions, the most and least novel samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from rdm_batch.engine.evaluation import Evaluated
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.image_sets import ImageSet, open_image_set
from rdm_batch.inputs.references import Reference
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.manifold_scores import PrecisionRecall
from rdm_batch.metrics.novelty import NoveltyDistances
from rdm_batch.metrics.regions import Plane, Region, find_regions, principal_plane
from rdm_batch.retrieval.tables import read_thumbnails
from rdm_batch.storage.png import encode_png

_MAX_REGIONS = 40
# Fewer would make empty regions a matter of chance.
_IMAGES_PER_REGION = 25
_STRIPS = 6
_SHAPES = "shapes:"


@dataclass(frozen=True)
class FeatureSpace:
    """Hold how samples lie among the reference, by the features most scores were taken on.

    Args:
        extractor: Name of the extractor.
        dim: Width of the features.
        ids: Sample index of each row.
        plane: Both sets, projected.
        regions: Regions of the reference; empty where it is too small for any.
        manifolds: Who lies in whose manifold. None where no score asked.
    """

    extractor: str
    dim: int
    ids: Int64[np.ndarray, " n"]
    plane: Plane
    regions: tuple[Region, ...]
    manifolds: PrecisionRecall | None


@dataclass(frozen=True)
class Novelty:
    """Hold the distances of novelty and which samples they belong to.

    Args:
        ids: Sample index of each row.
        distances: Distances of each row.
        most: Rows of the samples farthest from the database, farthest first.
        least: Rows of those nearest to it, nearest first.
    """

    ids: Int64[np.ndarray, " n"]
    distances: NoveltyDistances
    most: tuple[int, ...]
    least: tuple[int, ...]


def feature_space(evaluated: Evaluated, seed: int = 0) -> FeatureSpace | None:
    """Lay out samples and reference; None where the features of either side are not kept."""
    for part in evaluated.judged:
        if part.reference is None or not isinstance(part.samples, FeatureSet):
            continue
        layer = next(iter(part.samples.layers))
        if layer not in part.reference.features:
            continue
        generated, reference = part.samples.layer(layer), part.reference.rows(layer)
        count = min(_MAX_REGIONS, len(reference) // _IMAGES_PER_REGION)
        return FeatureSpace(
            extractor=part.samples.extractor.name,
            dim=generated.shape[1],
            ids=part.samples.ids,
            plane=principal_plane(generated, reference),
            regions=tuple(find_regions(generated, reference, count, seed)) if count > 1 else (),
            manifolds=part.findings.precision_recall,
        )
    return None


def novelty(evaluated: Evaluated) -> Novelty | None:
    """Find the most and the least novel samples; None where novelty was not measured."""
    for part in evaluated.judged:
        if part.novelty is not None and part.novelty.nearest is not None:
            assert isinstance(part.samples, FeatureSet)
            order = np.argsort(part.novelty.nearest, kind="stable")
            count = min(_STRIPS, len(order) // 2)
            return Novelty(
                ids=part.samples.ids,
                distances=part.novelty,
                most=tuple(order[::-1][:count].tolist()),
                least=tuple(order[:count].tolist()),
            )
    return None


def sample_pictures(evaluated: Evaluated, ids: Iterable[int]) -> dict[int, bytes]:
    """Give some of the samples as PNG, by id; none where only their features are known."""
    images = evaluated.samples.images
    return {} if images is None else _read(images, ids)


def reference_pictures(evaluated: Evaluated, rows: Iterable[int]) -> dict[int, bytes]:
    """Give some of the reference images as PNG, by row; none where only features are known."""
    images = _reference_images(evaluated.reference)
    return {} if images is None else _read(images, rows)


def database_pictures(database: Database, ids: Iterable[int]) -> dict[int, bytes]:
    """Give the thumbnails of some database rows; none where it is stored without."""
    wanted = np.unique(np.fromiter(ids, np.int64))
    found: dict[int, bytes] = {}
    for number, shard in enumerate(database.manifest.shards):
        here = wanted[(wanted >= shard.first_row) & (wanted < shard.first_row + shard.rows)]
        if not len(here) or shard.thumbnails is None:
            continue
        path = database.root([number]) / shard.thumbnails.path
        pictures = read_thumbnails(path, here - shard.first_row)
        found |= dict(zip(here.tolist(), pictures, strict=True))
    return found


def _reference_images(reference: Reference) -> ImageSet | None:
    saved = reference.statistics
    if saved is None or not saved.source.startswith(_SHAPES):
        return reference.images
    # Pictures of the shapes world are drawn, not stored: saved statistics name them fully.
    images = open_image_set(saved.source)
    counts = {len(rows) for rows in saved.features.values()}
    return images if counts == {images.num_images} else None


def _read(images: ImageSet, ids: Iterable[int]) -> dict[int, bytes]:
    wanted: Sequence[int] = sorted(set(ids))
    found: dict[int, bytes] = {}
    for part in images.parts:
        here = {index for index in wanted if part.first <= index < part.first + part.num_images}
        if not here:
            continue
        for batch_ids, pixels in images.batches(part):
            for index, image in zip(batch_ids.tolist(), pixels, strict=True):
                if index in here:
                    found[index] = encode_png(image)
    return found
