"""The table of a finished sweep, as a terminal shows it."""

from __future__ import annotations

from rich.console import Console, RenderableType

from rdm_batch.reports.sweep_report import CellReport, SweepReport, short_axis
from rdm_batch.reports.table import (
    add_columns,
    new_table,
    print_blocks,
    text_cell,
    with_arrow,
)
from rdm_batch.reports.units import format_measured
from rdm_batch.specs.scores import Score

_SCORE_WIDTH = 18
"""Characters of a score with its error."""


def print_sweep(report: SweepReport, console: Console | None = None) -> None:
    """Print the cells of a sweep with their scores, and the optimum.

    Args:
        report: The sweep.
        console: Where to print; None means standard output.
    """
    console = console or Console()
    print_blocks(sweep_summary(report, console.width), console)


def sweep_summary(report: SweepReport, width: int) -> list[RenderableType]:
    """Build the table of cells, and what is said of the optimum.

    Args:
        report: The sweep.
        width: Characters of a line. Scores that do not fit get a table of their own.
    """
    labels = {
        score.id: with_arrow(score.label, score.better)
        for cell in report.cells
        for score in cell.scores
    }
    names = {cell.name: _said_of(cell, report.base) for cell in report.cells}
    left = width - max(map(len, names.values()), default=0) - len("samples") - 4
    fitting = max(1, left // _SCORE_WIDTH)
    wanted = list(labels)
    groups = [wanted[at : at + fitting] for at in range(0, len(wanted), fitting)] or [[]]
    blocks: list[RenderableType] = []
    for group in groups:
        table = new_table("" if blocks else f"Sweep {report.name}")
        add_columns(table, "cell", ("samples", *(labels[score] for score in group)))
        for cell in report.in_order():
            figures = (_figure(cell.score(score)) for score in group)
            table.add_row(text_cell(names[cell.name]), f"{cell.samples:,}", *figures)
        blocks.append(table)
    best = report.optimum
    if best is not None:
        text = f"optimum of {labels[best.score]}: {best.cell}"
        ranges = [
            f"{short_axis(found.axis, report.axes)} {found.low:g} to {found.high:g}"
            for found in best.intervals
            if found.low != found.high
        ]
        if ranges:
            text += f"; it may lie anywhere in {', '.join(ranges)} (two paired standard errors)"
        blocks.append(text_cell(text))
    return blocks


def _said_of(cell: CellReport, base: str) -> str:
    """Name a cell, and say whether it is the base and whether it was ended."""
    name = cell.name
    if name == base != "base":
        name += " (base)"
    if cell.ended is not None:
        name += f" (ended: worse than {cell.ended.best})"
    return name


def _figure(score: Score | None) -> str:
    return "-" if score is None else format_measured(score.value, score.uncertainty)
