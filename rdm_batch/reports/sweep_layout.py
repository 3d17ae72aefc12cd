"""Where the marks of a sweep's charts lie; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rdm_batch.reports.figures import Tick, linear_ticks, log_ticks
from rdm_batch.reports.sweep_report import CellReport, SweepReport, short_axis, show_value
from rdm_batch.reports.table import with_arrow
from rdm_batch.reports.units import format_measured, format_number
from rdm_batch.specs.scores import Score

WIDTH, HEIGHT = 300.0, 180.0
"""Of a chart's area, in units of its drawing."""
NUM_COLORS = 4
_PADDING = 0.08
_LOG_FROM = 20.0
_MAX_LABEL = 14

Place = Callable[[float], float]


@dataclass(frozen=True)
class Mark:
    """Place one cell in a chart.

    Args:
        x: From the left.
        y: From the top.
        low: Lower end of the score's own standard error.
        high: Upper end.
        paired_low: Lower end of the standard error of the difference to the base.
        paired_high: Upper end.
        label: What the mark stands for.
        best: Whether it is the optimum.
    """

    x: float
    y: float
    low: float
    high: float
    paired_low: float
    paired_high: float
    label: str
    best: bool = False


@dataclass(frozen=True)
class Curve:
    """Join the marks of cells that differ in one axis only."""

    name: str
    color: int
    line: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Chart:
    """Lay out a chart: what is drawn over what."""

    title: str
    across: str
    up: str
    ticks_across: tuple[Tick, ...]
    ticks_up: tuple[Tick, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Group:
    """Name cells that differ in one axis only, in its order."""

    axis: str
    name: str
    cells: tuple[CellReport, ...]


def charts(report: SweepReport) -> list[Chart]:
    """Lay out each score against each axis."""
    ids = list(dict.fromkeys(score.id for cell in report.cells for score in cell.scores))
    made = []
    for axis, groups in groups_of(report).items():
        place_of, ticks = _across(axis, [cell for group in groups for cell in group.cells])
        name = axis if axis else "cell"
        for wanted in ids:
            chart = _chart(report, wanted, name, groups, place_of, ticks)
            if chart is not None:
                made.append(chart)
    return made


def plane(report: SweepReport) -> Chart | None:
    """Lay out the cells by their recall and precision, with paths; None unless they have both."""
    cells = [cell for cell in report.cells if cell.score("precision") and cell.score("recall")]
    if not cells:
        return None

    def value(cell: CellReport, wanted: str) -> float:
        score = cell.score(wanted)
        assert score is not None
        return score.value

    across, ticks_across = linear([value(cell, "recall") for cell in cells], WIDTH)
    up, ticks_up = linear([value(cell, "precision") for cell in cells], HEIGHT)
    curves = []
    for color, group in enumerate(
        group for groups in groups_of(report).values() for group in groups
    ):
        marks = []
        for cell in group.cells:
            if cell not in cells:
                continue
            x, y = across(value(cell, "recall")), HEIGHT - up(value(cell, "precision"))
            shown = ", ".join(
                f"{wanted} {format_number(value(cell, wanted))}"
                for wanted in ("precision", "recall")
            )
            best = report.optimum is not None and report.optimum.cell == cell.name
            marks.append(Mark(x, y, y, y, y, y, f"{cell.name}: {shown}", best))
        joined = group.axis != ""
        curves.append(
            Curve(group.name, color % NUM_COLORS + 1, _line(marks) if joined else "", tuple(marks))
        )
    return Chart(
        "Precision and recall", "recall", "precision", ticks_across, ticks_up, tuple(curves)
    )


def groups_of(report: SweepReport) -> dict[str, list[Group]]:
    """Find the cells that differ in one axis only, for every axis.

    Of lines those through the base, of a grid all. Of a list whose cells differ in several axes at
    once there are none: all cells then stand side by side, under an axis without a name.
    """
    found: dict[str, list[Group]] = {}
    base = next(cell for cell in report.cells if cell.name == report.base)
    for axis in report.axes:
        apart: dict[str, list[CellReport]] = {}
        for cell in report.cells:
            others = {key: value for key, value in cell.values.items() if key != axis}
            apart.setdefault(show_value(dict(others)), []).append(cell)
        kept = [cells for cells in apart.values() if len(cells) > 1]
        if report.form == "lines":
            kept = [cells for cells in kept if base in cells]
        groups = [
            Group(axis, _group_name(report, axis, cells), tuple(_ordered(axis, cells)))
            for cells in kept
        ]
        if groups:
            found[axis] = groups
    if report.form == "list" and sum(len(g.cells) for gs in found.values() for g in gs) < len(
        report.cells
    ):
        found = {}
    return found or {"": [Group("", "cells", report.cells)]}


def _group_name(report: SweepReport, axis: str, cells: Sequence[CellReport]) -> str:
    if report.form == "lines":
        return short_axis(axis, report.axes)
    others = [other for other in report.axes if other != axis]
    values = cells[0].values
    named = [f"{short_axis(other, report.axes)} {show_value(values[other])}" for other in others]
    return ", ".join(named) or short_axis(axis, report.axes)


def _ordered(axis: str, cells: Sequence[CellReport]) -> list[CellReport]:
    values = [cell.values[axis] for cell in cells]
    if all(_is_number(value) for value in values):
        return sorted(cells, key=lambda cell: _number(cell.values[axis]))
    return list(cells)


def _chart(
    report: SweepReport,
    wanted: str,
    axis: str,
    groups: Sequence[Group],
    place_of: Callable[[CellReport], float],
    ticks: tuple[Tick, ...],
) -> Chart | None:
    scored = {
        cell.name: score
        for group in groups
        for cell in group.cells
        if (score := cell.score(wanted)) is not None
    }
    if not scored:
        return None
    reach = [
        end
        for score in scored.values()
        for end in (score.value - (score.uncertainty or 0), score.value + (score.uncertainty or 0))
    ]
    up, ticks_up = linear(reach, HEIGHT)
    curves = []
    for color, group in enumerate(groups):
        marks = [
            _mark(report, cell, scored[cell.name], place_of(cell), up)
            for cell in group.cells
            if cell.name in scored
        ]
        line = _line(marks) if group.axis else ""
        curves.append(Curve(group.name, color % NUM_COLORS + 1, line, tuple(marks)))
    first = next(iter(scored.values()))
    title = with_arrow(first.label, first.better)
    return Chart(title, axis, title, ticks, ticks_up, tuple(curves))


def _mark(report: SweepReport, cell: CellReport, score: Score, x: float, up: Place) -> Mark:
    error = score.uncertainty or 0.0
    difference = cell.differences.get(score.id)
    paired = 0.0 if difference is None or not difference.paired else difference.error or 0.0
    label = f"{cell.name}: {format_measured(score.value, score.uncertainty)}"
    if difference is not None:
        label += f", {format_measured(difference.value, difference.error)} from {report.base}"
    if cell.ended is not None:
        label += f", ended after {cell.ended.samples:,} samples"
    optimum = report.optimum
    best = optimum is not None and (optimum.score, optimum.cell) == (score.id, cell.name)
    value = score.value
    ends = (value, value - error, value + error, value - paired, value + paired)
    y, low, high, paired_low, paired_high = (HEIGHT - up(end) for end in ends)
    return Mark(x, y, low, high, paired_low, paired_high, label, best)


def _across(
    axis: str, cells: Sequence[CellReport]
) -> tuple[Callable[[CellReport], float], tuple[Tick, ...]]:
    """Place cells along an axis: to scale where it is numbers, else in a row."""
    values = [cell.values[axis] for cell in cells] if axis else [cell.name for cell in cells]
    distinct = list({show_value(value): value for value in values}.values())
    if axis and len(distinct) > 1 and all(_is_number(value) for value in distinct):
        numbers = sorted(map(_number, distinct))
        logarithmic = numbers[0] > 0 and numbers[-1] / numbers[0] >= _LOG_FROM
        low, high = numbers[0], numbers[-1]

        def scale(value: float) -> float:
            share = (
                math.log(value / low) / math.log(high / low)
                if logarithmic
                else (value - low) / (high - low)
            )
            return WIDTH * (_PADDING / 2 + (1 - _PADDING) * share)

        ticks = log_ticks(low, high) if logarithmic else linear_ticks(low, high)
        marks = tuple(Tick(scale(value), f"{value:g}") for value in ticks)
        return lambda cell: scale(_number(cell.values[axis])), marks
    names = [show_value(value) for value in distinct]
    step = WIDTH / len(names)
    ticks_at = tuple(Tick(step * (place + 0.5), _short(name)) for place, name in enumerate(names))

    def in_row(cell: CellReport) -> float:
        return step * (names.index(show_value(cell.values[axis] if axis else cell.name)) + 0.5)

    return in_row, ticks_at


def linear(values: Iterable[float], length: float) -> tuple[Place, tuple[Tick, ...]]:
    """Make an axis that holds all values with a little room, and its ticks.

    Args:
        values: At least one.
        length: Of the axis.
    """
    known = list(values)
    low, high = min(known), max(known)
    if high == low:
        room = abs(low) / 10 or 1.0
        low, high = low - room, high + room
    room = _PADDING * (high - low)
    low, high = low - room, high + room

    def scale(value: float) -> float:
        return length * (value - low) / (high - low)

    ticks = linear_ticks(low, high)
    return scale, tuple(Tick(scale(value), f"{round(value, 10):g}") for value in ticks)


def _line(marks: Sequence[Mark]) -> str:
    places = [f"{mark.x:.1f} {mark.y:.1f}" for mark in marks]
    return "M" + "L".join(places) if len(places) > 1 else ""


def _short(text: str) -> str:
    end = text.rstrip("/").rpartition("/")[2]
    return end if len(end) <= _MAX_LABEL else f"{end[: _MAX_LABEL - 1]}…"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
