"""From a finished evaluation to what its page shows besides the scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64

from rdm_batch.engine.evaluation import Evaluated
from rdm_batch.engine.views import (
    FeatureSpace,
    Novelty,
    database_pictures,
    feature_space,
    novelty,
    reference_pictures,
    sample_pictures,
)
from rdm_batch.inputs.databases import Database
from rdm_batch.metrics.regions import Region
from rdm_batch.reports import views
from rdm_batch.reports.pictures import Pictures

_MAX_POINTS = 800
_EXAMPLES = 12
_PER_REGION = 4
_ILLUSTRATED_REGIONS = 6
# The frame of the map: this part of each set's points on either side may lie on its border.
_CUT = 0.005
_SEED = 0


def look_at(evaluated: Evaluated, database: Database | None) -> tuple[views.Views, Pictures]:
    """Collect what there is to see of an evaluation, and the pictures it names.

    Args:
        evaluated: The evaluation.
        database: Where neighbors came from; None where novelty was not measured.

    Raises:
        RdmBatchError: Images that were judged cannot be read any more.
    """
    space, found = feature_space(evaluated, _SEED), novelty(evaluated)
    seen = views.Views()
    if space is not None:
        seen = _space(space)
    if found is not None:
        most, least = (
            tuple(_novel(found, row) for row in rows) for rows in (found.most, found.least)
        )
        seen = seen.model_copy(update={"most_novel": most, "least_novel": least})
    strips = [*seen.most_novel, *seen.least_novel]
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
    return seen, Pictures(
        samples=sample_pictures(evaluated, samples) if samples else {},
        neighbors=database_pictures(database, rows) if rows and database else {},
        references=reference_pictures(evaluated, references) if references else {},
    )


def _space(space: FeatureSpace) -> views.Views:
    plane, manifolds = space.plane, space.manifolds
    num_samples, num_references = len(plane.generated), len(plane.reference)
    inside = None if manifolds is None else manifolds.generated_inside
    reached = None if manifolds is None else manifolds.reference_inside
    low, high = _frame(plane.generated, plane.reference)
    feature_map = views.FeatureMap(
        explained=plane.explained,
        samples=_points(plane.generated, inside, low, high),
        references=_points(plane.reference, reached, low, high),
        outside=tuple(space.ids[_examples(inside)].tolist()),
        unreached=tuple(_examples(reached).tolist()),
        num_outside=0 if inside is None else int((~inside).sum()),
        num_unreached=0 if reached is None else int((~reached).sum()),
    )
    return views.Views(
        extractor=space.extractor,
        dim=space.dim,
        num_samples=num_samples,
        num_references=num_references,
        map=feature_map,
        regions=tuple(_regions(space.regions, space.ids)),
    )


def _regions(regions: Sequence[Region], ids: Int64[np.ndarray, " n"]) -> Iterator[views.Region]:
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


def _novel(found: Novelty, row: int) -> views.NovelSample:
    distances = found.distances
    assert distances.nearest is not None
    assert distances.nearest_ids is not None
    known = distances.neighbors is not None and distances.neighbor_ids is not None
    return views.NovelSample(
        sample_index=int(found.ids[row]),
        neighbor_id=int(distances.neighbor_ids[row]) if known else None,  # type: ignore[index]
        neighbor_distance=float(distances.neighbors[row]) if known else None,  # type: ignore[index]
        nearest_id=int(distances.nearest_ids[row]),
        nearest_distance=float(distances.nearest[row]),
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
