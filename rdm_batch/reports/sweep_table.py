"""The table of a finished sweep, as a terminal shows it."""

from __future__ import annotations

from rich.console import Console, RenderableType

from rdm_batch.reports.sweep_report import SweepReport, short_axis
from rdm_batch.reports.table import (
    add_columns,
    new_table,
    print_blocks,
    text_cell,
    with_arrow,
)
from rdm_batch.reports.units import format_measured


def print_sweep(report: SweepReport, console: Console | None = None) -> None:
    """Print the cells of a sweep with their scores, and the optimum.

    Args:
        report: The sweep.
        console: Where to print; None means standard output.
    """
    print_blocks(sweep_summary(report), console or Console())


def sweep_summary(report: SweepReport) -> list[RenderableType]:
    """Build the table of cells, and what is said of the optimum."""
    labels = {
        score.id: with_arrow(score.label, score.better)
        for cell in report.cells
        for score in cell.scores
    }
    table = new_table(f"Sweep {report.name}")
    add_columns(table, "cell", ("samples", *labels.values()))
    for cell in report.in_order():
        name = cell.name
        if name == report.base != "base":
            name += " (base)"
        if cell.ended is not None:
            name += f" (ended: worse than {cell.ended.best})"
        figures = []
        for wanted in labels:
            score = cell.score(wanted)
            shown = None if score is None else format_measured(score.value, score.uncertainty)
            figures.append(shown or "-")
        table.add_row(text_cell(name), f"{cell.samples:,}", *figures)
    blocks: list[RenderableType] = [table]
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
