"""What a search of a database found: as a table, and as a page of thumbnails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from rich.table import Table
from rich.text import Text

from rdm_batch.reports.page import template
from rdm_batch.reports.pictures import Embedded, embed
from rdm_batch.reports.units import printable

# Twice the size at which they are shown, for sharp screens.
_PICTURE_SIDE = 256
_WEB = ("http://", "https://")


@dataclass(frozen=True)
class Found:
    """Hold one row that was found.

    Args:
        row_id: The row.
        similarity: Cosine similarity to the query.
        item_id: Where the row came from: a file, an address.
        caption: Its caption; None where it has none.
        patch: The part of the source image (x0, y0, x1, y1) in pixels; None for the whole.
        picture: Its thumbnail, encoded; None where the database stores none.
        url: Its address; None where it has none.
    """

    row_id: int
    similarity: float
    item_id: str
    caption: str | None = None
    patch: tuple[int, ...] | None = None
    picture: bytes | None = None
    url: str | None = None


@dataclass(frozen=True)
class Query:
    """Hold one query with the rows found for it, best first."""

    label: str
    picture: bytes | None
    found: tuple[Found, ...]


@dataclass(frozen=True)
class SearchReport:
    """Hold what a search found.

    Args:
        database: Where it searched.
        rows: Rows of the database.
        encoder: Name of the encoder that made them.
        has_thumbnails: Whether the database stores pictures.
        queries: At least one.
    """

    database: str
    rows: int
    encoder: str
    has_thumbnails: bool
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class _Hit:
    found: Found
    picture: Embedded | None
    address: str | None
    bar: float


def search_tables(report: SearchReport) -> Iterator[Table]:
    """Lay out one table for each query, for a terminal."""
    for query in report.queries:
        table = Table(box=None, title=Text(printable(query.label)), title_justify="left")
        table.title_style = "bold"
        for name, justify in (("#", "right"), ("row", "right"), ("similarity", "right")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        captioned = any(found.caption for found in query.found)
        if captioned:
            table.add_column("caption", overflow="fold")
        table.add_column("item", overflow="fold")
        addressed = any(found.url not in (None, found.item_id) for found in query.found)
        if addressed:
            table.add_column("url", overflow="fold")
        for place, found in enumerate(query.found, 1):
            cells = [str(place), str(found.row_id), f"{found.similarity:.4f}"]
            if captioned:
                cells.append(printable(found.caption or ""))
            item = found.item_id
            if found.patch is not None:
                item += f" {list(found.patch)}"
            cells.append(printable(item))
            if addressed:
                cells.append(printable(found.url or ""))
            table.add_row(*(Text(cell) for cell in cells))
        yield table


def render_search(report: SearchReport, time: datetime, command: str) -> str:
    """Render the page of a search, self-contained as that of a job.

    Args:
        report: What was found.
        time: When.
        command: How to search again.

    Raises:
        SampleSetError: A thumbnail is not an image.
    """
    blocks = [
        (
            query,
            None if query.picture is None else embed(query.picture, _PICTURE_SIDE),
            _hits(query),
        )
        for query in report.queries
    ]
    return template("search.html.j2").render(
        report=report, blocks=blocks, time=time, command=command
    )


def _hits(query: Query) -> list[_Hit]:
    """Lay out what was found; bars span the similarities of this query, the best one full."""
    scores = [found.similarity for found in query.found]
    low, high = min(scores), max(scores)
    # Never from zero length: the last one is a neighbor too.
    floor = low - max(0.25 * (high - low), 1e-9)
    return [
        _Hit(
            found,
            None if found.picture is None else embed(found.picture, _PICTURE_SIDE),
            found.url if found.url is not None and found.url.startswith(_WEB) else None,
            100 * (found.similarity - floor) / (high - floor),
        )
        for found in query.found
    ]
