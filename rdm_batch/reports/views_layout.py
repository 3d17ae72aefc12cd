"""The layout of a report's views; the template draws them: map, regions, strips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdm_batch.reports.pictures import Embedded, Pictures, embed
from rdm_batch.reports.units import format_number, format_share
from rdm_batch.reports.views import FeatureMap, NovelSample, Points, Region, Views

_SIDE = 300
# Twice the size at which they are shown, for sharp screens.
_PICTURE_SIDE = 128
_STRIP_SIDE = 192
_MAX_ILLUSTRATED = 6


@dataclass(frozen=True)
class Shown:
    """Hold a picture with its label; None where it was not saved."""

    label: str
    picture: Embedded | None


@dataclass(frozen=True)
class Panel:
    """Draw one set over the other: paths of dots, and pictures of what lies outside.

    Args:
        title: Which set.
        behind: Path of the other set.
        inside: Path of what lies inside of the other set's manifold, or of all where unknown.
        outside: Path of what does not.
        count: What the panel says in numbers; empty where the manifolds are unknown.
        note: What its pictures are.
        examples: Pictures from outside.
    """

    title: str
    behind: str
    inside: str
    outside: str
    count: str
    note: str
    examples: tuple[Shown, ...]


@dataclass(frozen=True)
class Column:
    """Draw one region: heights in percent of the figure."""

    reference: float
    samples: float
    empty: bool
    label: str


@dataclass(frozen=True)
class RegionRow:
    """Show one region by what lies in its midst."""

    label: str
    references: tuple[Shown, ...]
    samples: tuple[Shown, ...]


@dataclass(frozen=True)
class Strip:
    """Show a sample beside its nearest conditioning neighbor and its nearest database entry."""

    sample: Shown
    neighbor: Shown | None
    nearest: Shown
    text: str


@dataclass(frozen=True)
class ViewsLayout:
    """Hold everything the template draws; parts that are not known are empty."""

    views: Views
    panels: tuple[Panel, ...]
    columns: tuple[Column, ...]
    num_empty: int
    empty_share: str
    seldom: tuple[RegionRow, ...]
    often: RegionRow | None
    strips: tuple[tuple[str, tuple[Strip, ...]], ...]


def lay_out(views: Views | None, pictures: Pictures) -> ViewsLayout | None:
    """Lay out what an evaluation found; None where there is nothing to look at.

    Raises:
        SampleSetError: A picture is not an image.
    """
    if views is None or not (views.map or views.regions or views.most_novel):
        return None
    empty = [region for region in views.regions if not region.num_samples]
    rows = [_region_row(views, region, pictures) for region in views.regions if region.references]
    strips = (("Most novel", views.most_novel), ("Least novel", views.least_novel))
    return ViewsLayout(
        views=views,
        panels=() if views.map is None else _panels(views, views.map, pictures),
        columns=_columns(views),
        num_empty=len(empty),
        empty_share=format_share(
            sum(region.num_references for region in empty) / max(1, views.num_references)
        ),
        seldom=tuple(rows[: min(_MAX_ILLUSTRATED, len(rows) - 1)]),
        often=rows[-1] if rows else None,
        strips=tuple(
            (title, tuple(_strip(item, pictures) for item in items))
            for title, items in strips
            if items
        ),
    )


def _panels(views: Views, map_: FeatureMap, pictures: Pictures) -> tuple[Panel, ...]:
    samples = _panel(
        "Samples",
        map_.samples,
        map_.references,
        (map_.num_outside, views.num_samples, "samples lie outside of the reference's manifold"),
        ("Samples outside", _shown(map_.outside, pictures.samples, "sample")),
    )
    references = _panel(
        "Reference",
        map_.references,
        map_.samples,
        (map_.num_unreached, views.num_references, "reference images no sample's ball reaches"),
        ("Reference images not reached", _shown(map_.unreached, pictures.references, "reference")),
    )
    return samples, references


def _panel(
    title: str,
    points: Points,
    behind: Points,
    counted: tuple[int, int, str],
    examples: tuple[str, tuple[Shown, ...]],
) -> Panel:
    number, total, what = counted
    flags = points.inside or (True,) * len(points.x)
    return Panel(
        title=title,
        behind=_dots(behind, [True] * len(behind.x)),
        inside=_dots(points, flags),
        outside=_dots(points, [not flag for flag in flags]),
        count=f"{number:,} of {total:,} {what}" if points.inside else "",
        note=f"{examples[0]}, {len(examples[1])} of {number:,}:",
        examples=examples[1],
    )


def _dots(points: Points, wanted: Sequence[bool]) -> str:
    """Write a path of dots: lines of no length with round ends."""
    scale = _SIDE / 1000
    return "".join(
        f"M{x * scale:.1f} {_SIDE - y * scale:.1f}h0"
        for x, y, flag in zip(points.x, points.y, wanted, strict=True)
        if flag
    )


def _columns(views: Views) -> tuple[Column, ...]:
    shares = [
        (region.num_references / views.num_references, region.num_samples / views.num_samples)
        for region in views.regions
    ]
    highest = max((max(pair) for pair in shares), default=1.0)
    return tuple(
        Column(
            reference=100 * reference / highest,
            samples=100 * samples / highest,
            empty=not region.num_samples,
            label=_counts(views, region),
        )
        for region, (reference, samples) in zip(views.regions, shares, strict=True)
    )


def _counts(views: Views, region: Region) -> str:
    return (
        f"{region.num_samples:,} sample{'' if region.num_samples == 1 else 's'}, "
        f"{format_number(views.expected(region))} expected from "
        f"{region.num_references:,} reference images"
    )


def _region_row(views: Views, region: Region, pictures: Pictures) -> RegionRow:
    return RegionRow(
        label=_counts(views, region),
        references=_shown(region.references, pictures.references, "reference"),
        samples=_shown(region.samples, pictures.samples, "sample"),
    )


def _strip(item: NovelSample, pictures: Pictures) -> Strip:
    neighbor = None
    if item.neighbor_id is not None:
        neighbor = _one(
            pictures.neighbors.get(item.neighbor_id),
            f"nearest conditioning neighbor, database row {item.neighbor_id}: "
            f"distance {item.neighbor_distance:.3f}",
            _STRIP_SIDE,
        )
    return Strip(
        sample=_one(
            pictures.samples.get(item.sample_index), f"sample {item.sample_index}", _STRIP_SIDE
        ),
        neighbor=neighbor,
        nearest=_one(
            pictures.neighbors.get(item.nearest_id),
            f"nearest database entry, row {item.nearest_id}: distance {item.nearest_distance:.3f}",
            _STRIP_SIDE,
        ),
        text=_distances(item),
    )


def _distances(item: NovelSample) -> str:
    nearest = f"{item.nearest_distance:.3f}"
    if item.neighbor_distance is None:
        return f"{nearest} to the database"
    if item.neighbor_id == item.nearest_id:
        return f"{nearest} to the same entry"
    return f"{item.neighbor_distance:.3f} to its neighbor, {nearest} to the database"


def _shown(ids: Sequence[int], images: Mapping[int, bytes], kind: str) -> tuple[Shown, ...]:
    return tuple(_one(images.get(index), f"{kind} {index}", _PICTURE_SIDE) for index in ids)


def _one(image: bytes | None, label: str, side: int) -> Shown:
    return Shown(label, None if image is None else embed(image, side))
