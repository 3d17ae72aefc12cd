"""From a finished evaluation to what its page shows besides the scores.

The samples and the reference in a plane, regions of the reference and how many samples fall into
each, the most and the least novel samples; and the pictures all of these name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rdm_batch.evaluation.evaluate import Evaluated
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.image_sets import ImageSet, open_image_set
from rdm_batch.inputs.references import Reference
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.manifold_scores import PrecisionRecall
from rdm_batch.metrics.novelty import NoveltyDistances
from rdm_batch.metrics.regions import Region, find_regions, principal_plane
from rdm_batch.reports import views
from rdm_batch.reports.pictures import Pictures
from rdm_batch.retrieval.tables import read_thumbnails
from rdm_batch.storage.png import encode_png

_SEED = 0
_MAX_REGIONS = 40
# Fewer would make empty regions a matter of chance.
_IMAGES_PER_REGION = 25
_PER_REGION = 4
_ILLUSTRATED_REGIONS = 6
_MAX_POINTS = 800
_EXAMPLES = 12
_STRIPS = 6
# The frame of the map: this part of each set's points on either side may lie on its border.
_CUT = 0.005
_SHAPES = "shapes:"

Strips = tuple[views.NovelSample, ...]


def look_at(evaluated: Evaluated, database: Database | None) -> tuple[views.Views, Pictures]:
    """Collect what there is to see of an evaluation, and the pictures it names.

    Args:
        evaluated: The evaluation.
        database: Where neighbors came from; None where novelty was not measured.

    Raises:
        RdmBatchError: Images that were judged cannot be read any more.
    """
    most, least = _novelty(evaluated)
    seen = _feature_space(evaluated).model_copy(update={"most_novel": most, "least_novel": least})
    strips = [*most, *least]
    samples = [item.sample_index for item in strips]
    references: list[int] = []
    if seen.map is not None:
        samples += seen.map.outside
        references += seen.map.unreached
    for region in seen.regions:
        samples += region.samples
        references += region.references
    rows = [item.nearest_id for item in strips]
    rows += [item.neighbor_id for item in strips if item.neighbor_id is not None]
    compared = _reference_images(evaluated.reference) if references else None
    return seen, Pictures(
        samples=_pictures(evaluated.samples.images, samples),
        neighbors=_thumbnails(database, rows) if rows and database else {},
        references=_pictures(compared, references),
    )


def _feature_space(evaluated: Evaluated) -> views.Views:
    """Lay out both sides by the first features that are known of both; nothing without any."""
    for part in evaluated.judged:
        if part.reference is not None and isinstance(part.samples, FeatureSet):
            layer = next(iter(part.samples.layers))
            if layer in part.reference.features:
                reference = part.reference.rows(layer)
                return _placed(part.samples, layer, reference, part.findings.precision_recall)
    return views.Views()


def _placed(
    samples: FeatureSet,
    layer: str,
    reference: Float32[np.ndarray, "m d"],
    manifolds: PrecisionRecall | None,
) -> views.Views:
    generated, ids = samples.layer(layer), samples.ids
    plane = principal_plane(generated, reference)
    inside = None if manifolds is None else manifolds.generated_inside
    reached = None if manifolds is None else manifolds.reference_inside
    low, high = _frame(plane.generated, plane.reference)
    count = min(_MAX_REGIONS, len(reference) // _IMAGES_PER_REGION)
    regions = find_regions(generated, reference, count, _SEED) if count > 1 else ()
    return views.Views(
        extractor=samples.extractor.name,
        dim=generated.shape[1],
        num_samples=len(generated),
        num_references=len(reference),
        map=views.FeatureMap(
            explained=plane.explained,
            samples=_points(plane.generated, inside, low, high),
            references=_points(plane.reference, reached, low, high),
            outside=tuple(ids[_examples(inside)].tolist()),
            unreached=tuple(_examples(reached).tolist()),
            num_outside=0 if inside is None else int((~inside).sum()),
            num_unreached=0 if reached is None else int((~reached).sum()),
        ),
        regions=tuple(_regions(regions, ids)),
    )


def _regions(regions: Iterable[Region], ids: Int64[np.ndarray, " n"]) -> Iterator[views.Region]:
    """Sort regions by how seldom samples come there; name pictures of the ends of the list."""

    def rate(region: Region) -> tuple[float, int]:
        return len(region.generated) / len(region.reference), -len(region.reference)

    ordered = sorted(regions, key=rate)
    for place, region in enumerate(ordered):
        shown = _PER_REGION if place < _ILLUSTRATED_REGIONS or place == len(ordered) - 1 else 0
        yield views.Region(
            num_samples=len(region.generated),
            num_references=len(region.reference),
            samples=tuple(ids[region.generated[:shown]].tolist()),
            references=tuple(region.reference[:shown].tolist()),
        )


def _frame(
    *sets: Float64[np.ndarray, "_ 2"],
) -> tuple[Float64[np.ndarray, " 2"], Float64[np.ndarray, " 2"]]:
    quantiles = [np.quantile(places, [_CUT, 1 - _CUT], axis=0) for places in sets]
    low = np.min([lower for lower, _ in quantiles], axis=0)
    high = np.max([upper for _, upper in quantiles], axis=0)
    return low, np.where(high > low, high, low + 1)


def _points(
    places: Float64[np.ndarray, "n 2"],
    inside: Bool[np.ndarray, " n"] | None,
    low: Float64[np.ndarray, " 2"],
    high: Float64[np.ndarray, " 2"],
) -> views.Points:
    chosen = np.random.default_rng(_SEED).permutation(len(places))[:_MAX_POINTS]
    scaled = np.clip(1000 * (places[chosen] - low) / (high - low), 0, 1000).round().astype(int)
    return views.Points(
        x=tuple(scaled[:, 0].tolist()),
        y=tuple(scaled[:, 1].tolist()),
        inside=() if inside is None else tuple(inside[chosen].tolist()),
    )


def _examples(inside: Bool[np.ndarray, " n"] | None) -> Int64[np.ndarray, " _"]:
    """Choose some rows that lie outside, by lot."""
    rows = np.flatnonzero(~inside) if inside is not None else np.empty(0, np.int64)
    return np.sort(np.random.default_rng(_SEED).permutation(rows)[:_EXAMPLES])


def _novelty(evaluated: Evaluated) -> tuple[Strips, Strips]:
    """Find the most and the least novel samples; none where novelty was not measured."""
    for part in evaluated.judged:
        if part.novelty is not None and part.novelty.nearest is not None:
            assert isinstance(part.samples, FeatureSet)
            order = np.argsort(part.novelty.nearest, kind="stable")
            count = min(_STRIPS, len(order) // 2)
            ids = part.samples.ids
            return (
                _strips(part.novelty, ids, order[::-1][:count].tolist()),
                _strips(part.novelty, ids, order[:count].tolist()),
            )
    return (), ()


def _strips(
    distances: NoveltyDistances, ids: Int64[np.ndarray, " n"], rows: Sequence[int]
) -> Strips:
    assert distances.nearest is not None
    assert distances.nearest_ids is not None
    known = distances.neighbors is not None and distances.neighbor_ids is not None
    return tuple(
        views.NovelSample(
            sample_index=int(ids[row]),
            neighbor_id=int(distances.neighbor_ids[row]) if known else None,  # type: ignore[index]
            neighbor_distance=float(distances.neighbors[row]) if known else None,  # type: ignore[index]
            nearest_id=int(distances.nearest_ids[row]),
            nearest_distance=float(distances.nearest[row]),
        )
        for row in rows
    )


def _thumbnails(database: Database, ids: Iterable[int]) -> dict[int, bytes]:
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


def _pictures(images: ImageSet | None, ids: Iterable[int]) -> dict[int, bytes]:
    """Give some images as PNG, by id; none where only their features are known."""
    wanted = sorted(set(ids))
    found: dict[int, bytes] = {}
    for part in () if images is None else images.parts:
        here = {index for index in wanted if part.first <= index < part.first + part.num_images}
        if not here:
            continue
        assert images is not None
        for batch_ids, pixels in images.batches(part):
            for index, image in zip(batch_ids.tolist(), pixels, strict=True):
                if index in here:
                    found[index] = encode_png(image)
    return found
