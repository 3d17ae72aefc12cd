"""The page of a sweep, and its files below the output location."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdm_batch.reports.page import template
from rdm_batch.reports.pictures import Embedded, embed
from rdm_batch.reports.sweep_layout import HEIGHT, NUM_COLORS, WIDTH, charts, plane
from rdm_batch.reports.sweep_report import (
    SWEEP_KEY,
    CellReport,
    SweepReport,
    short_axis,
    show_value,
)
from rdm_batch.reports.table import with_arrow
from rdm_batch.reports.units import format_duration, format_measured
from rdm_batch.specs.scores import Score
from rdm_batch.storage.object_store import open_store

PAGE_KEY = "sweep.html"
CSV_KEY = "sweep.csv"
_SIDE = 128


@dataclass(frozen=True)
class _Figure:
    value: str
    difference: str
    best: bool


@dataclass(frozen=True)
class _Row:
    cell: CellReport
    values: tuple[str, ...]
    figures: tuple[_Figure | None, ...]
    pictures: tuple[Embedded, ...]


def render_sweep(report: SweepReport, pictures: Mapping[str, Sequence[bytes]]) -> str:
    """Render the page, self-contained as that of a job.

    Args:
        report: What it says.
        pictures: By name of a cell: its first samples, encoded.

    Raises:
        SampleSetError: A picture is not an image.
    """
    scores = _scores(report)
    rows = [_row(report, cell, scores, pictures.get(cell.name, ())) for cell in report.in_order()]
    optimum = report.optimum
    took = report.provenance.ended - report.provenance.started
    return template("sweep.html.j2").render(
        report=report,
        axes=[short_axis(axis, report.axes) for axis in report.axes],
        scores=[with_arrow(score.label, score.better) for score in scores.values()],
        rows=rows,
        plane=plane(report),
        charts=charts(report),
        sought=None if optimum is None else scores[optimum.score],
        width=WIDTH,
        height=HEIGHT,
        num_colors=NUM_COLORS,
        unpaired=_unpaired(report, scores),
        samples=sum(cell.samples for cell in report.cells),
        planned=sum(cell.planned for cell in report.cells),
        num_pictures=max((len(row.pictures) for row in rows), default=0),
        duration=format_duration(took.total_seconds()),
        gains=_gains(report, scores),
    )


def save_sweep(report: SweepReport, pictures: Mapping[str, Sequence[bytes]]) -> str:
    """Write ``sweep.json``, ``sweep.csv`` and the page; give where the page is.

    Raises:
        SampleSetError: The location cannot be written.
    """
    page = render_sweep(report, pictures)
    store = open_store(report.uri)
    store.write_bytes(CSV_KEY, report.to_csv())
    store.write_bytes(SWEEP_KEY, report.to_json())
    store.write_bytes(PAGE_KEY, page.encode())
    return store.child_uri(PAGE_KEY)


def _scores(report: SweepReport) -> dict[str, Score]:
    """Give one score of each kind there is, for its label."""
    found: dict[str, Score] = {}
    for cell in report.cells:
        for score in cell.scores:
            found.setdefault(score.id, score)
    return found


def _row(
    report: SweepReport,
    cell: CellReport,
    scores: Mapping[str, Score],
    pictures: Sequence[bytes],
) -> _Row:
    figures: list[_Figure | None] = []
    optimum = report.optimum
    for wanted in scores:
        score, difference = cell.score(wanted), cell.differences.get(wanted)
        if score is None:
            figures.append(None)
            continue
        told = ""
        if difference is not None:
            sign = "+" if difference.value >= 0 else ""
            told = sign + format_measured(difference.value, difference.error)
        best = optimum is not None and (optimum.score, optimum.cell) == (wanted, cell.name)
        shown = format_measured(score.value, score.uncertainty)
        figures.append(_Figure(shown, told.replace("-", "−"), best))
    values = tuple(
        "–" if cell.values[axis] is None else show_value(cell.values[axis]) for axis in report.axes
    )
    embedded = tuple(embed(picture, _SIDE) for picture in pictures)
    return _Row(cell, values, tuple(figures), embedded)


def _unpaired(report: SweepReport, scores: Mapping[str, Score]) -> list[str]:
    """Name the scores whose differences have no paired error."""
    paired = {
        wanted
        for cell in report.cells
        for wanted, difference in cell.differences.items()
        if difference.paired
    }
    compared = {wanted for cell in report.cells for wanted in cell.differences}
    return [score.label for wanted, score in scores.items() if wanted in compared - paired]


def _gains(report: SweepReport, scores: Mapping[str, Score]) -> list[tuple[str, float, float]]:
    """Give the least and the most by which pairing divides the variance of each score."""
    found = []
    for wanted, score in scores.items():
        gains = [
            difference.gain
            for cell in report.cells
            if (difference := cell.differences.get(wanted)) is not None
            and difference.gain is not None
        ]
        if gains:
            found.append((score.label, min(gains), max(gains)))
    return found
