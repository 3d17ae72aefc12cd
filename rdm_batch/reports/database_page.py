"""What lies in a database, as lines for a terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rdm_batch.reports.page import template
from rdm_batch.reports.pictures import Embedded, embed
from rdm_batch.reports.units import format_share

_PICTURE_SIDE = 128
_SIDE = 300


@dataclass(frozen=True)
class PlacedRow:
    """Place a row on the map, in thousandths of its sides."""

    row: int
    x: int
    y: int


@dataclass(frozen=True)
class RowsMap:
    """Hold rows in the two directions in which they vary most.

    Args:
        explained: Share of their variance in the plane.
        dots: Place of every row looked at, in thousandths of the map's sides.
        pictured: Those of them that are shown as pictures.
    """

    explained: float
    dots: tuple[tuple[int, int], ...]
    pictured: tuple[PlacedRow, ...]


@dataclass(frozen=True)
class Pair:
    """Hold a row, the nearest other one, and their cosine similarity."""

    row: int
    nearest: int
    similarity: float


@dataclass(frozen=True)
class Coverage:
    """Hold how the proposal distribution p_D spreads over the rows.

    Args:
        entries: Rows that are a neighbor of the training set at all.
        rows: Rows of the database.
        masses: For some ``top_m``, the share of p_D that the kept entries hold.
        curve: Share of the entries, most frequent first, to the share of p_D they hold.
    """

    entries: int
    rows: int
    masses: tuple[tuple[float, float], ...]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Leaves:
    """Say how many rows the leaves of a partitioned shard hold."""

    shard: int
    leaves: int
    fewest: int
    median: float
    most: int


@dataclass(frozen=True)
class DatabaseReport:
    """Hold what there is to see in a database.

    Args:
        uri: Where it is.
        facts: What its manifest says, one line a property.
        rows: Its rows.
        map: Where some of them lie; None where there are too few.
        pairs: The closest pairs among the rows compared.
        num_compared: Rows whose nearest other row was looked up.
        num_duplicates: How many of them have one that counts as a duplicate.
        duplicate_similarity: Cosine similarity from which it does.
        median_nearest: Median similarity of a row to the nearest other one.
        coverage: How p_D spreads; None without a proposal distribution.
        leaves: Rows per leaf of every partitioned shard.
        pictures: Thumbnails of the rows that are shown; empty where the database stores none.
        captions: What these rows are.
    """

    uri: str
    facts: Mapping[str, str]
    rows: int
    map: RowsMap | None
    pairs: tuple[Pair, ...]
    num_compared: int
    num_duplicates: int
    duplicate_similarity: float
    median_nearest: float | None
    coverage: Coverage | None
    leaves: tuple[Leaves, ...]
    pictures: Mapping[int, bytes] = field(default_factory=dict)
    captions: Mapping[int, str] = field(default_factory=dict)


def insight_lines(report: DatabaseReport) -> Iterator[tuple[str, str]]:
    """Say what a look into a database found, one line per property."""
    for leaf in report.leaves:
        yield (
            "leaves",
            f"shard {leaf.shard}: {leaf.leaves:,} of {leaf.fewest:,} to {leaf.most:,} rows, "
            f"median {leaf.median:,.0f}",
        )
    if report.median_nearest is not None:
        share = format_share(report.num_duplicates / report.num_compared)
        yield (
            "nearest",
            f"similarity {report.median_nearest:.4f} to the nearest other row (median of "
            f"{report.num_compared:,}); {share} have a duplicate (from "
            f"{report.duplicate_similarity:g})",
        )
    if report.coverage is not None:
        coverage = report.coverage
        masses = ", ".join(f"{share:g} {format_share(mass)}" for share, mass in coverage.masses)
        yield (
            "p_D",
            f"{coverage.entries:,} of {coverage.rows:,} rows; share of it that top_m keeps: "
            f"{masses}",
        )


def render_database(report: DatabaseReport, time: datetime, command: str) -> str:
    """Render the page of a database, self-contained as that of a job.

    Args:
        report: What there is to see.
        time: When it was looked into.
        command: How to look again.

    Raises:
        SampleSetError: A thumbnail is not an image.
    """
    pictures = {row: embed(data, _PICTURE_SIDE) for row, data in report.pictures.items()}
    map_, coverage = report.map, report.coverage
    return template("database.html.j2").render(
        report=report,
        lines=list(insight_lines(report)),
        dots="" if map_ is None else _dots(map_.dots),
        pictured=[] if map_ is None else _placed(map_, pictures),
        pictures=pictures,
        curve="" if coverage is None else _curve(coverage.curve),
        time=time,
        command=command,
    )


def _dots(places: tuple[tuple[int, int], ...]) -> str:
    """Write a path of dots: lines of no length with round ends."""
    scale = _SIDE / 1000
    return "".join(f"M{x * scale:.1f} {_SIDE - y * scale:.1f}h0" for x, y in places)


def _placed(
    map_: RowsMap, pictures: Mapping[int, Embedded]
) -> list[tuple[int, float, float, Embedded]]:
    return [
        # The frame of the map is three percent wide.
        (item.row, 3 + 0.094 * item.x, 97 - 0.094 * item.y, pictures[item.row])
        for item in map_.pictured
        if item.row in pictures
    ]


def _curve(points: tuple[tuple[float, float], ...]) -> str:
    return "M" + "L".join(f"{x * _SIDE:.2f} {_SIDE - y * _SIDE:.2f}" for x, y in points)
