"""A comparison as people and as programs read it."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.text import Text

from rdm_batch.regression.comparison import OUTCOMES, Cell, Comparison, Row
from rdm_batch.regression.records import EXIT_CODES, Figure
from rdm_batch.regression.tables import WORDS
from rdm_batch.reports.table import add_columns, new_table, print_blocks, text_cell
from rdm_batch.reports.units import (
    format_bytes,
    format_measured,
    format_number,
    format_seconds,
    format_share,
    printable,
)

_STYLES = {"better": "green", "worse": "red", "differs": "red"}
_SIDES = string.ascii_uppercase


def print_comparison(
    comparison: Comparison, outcome: bool = False, console: Console | None = None
) -> None:
    """Print a comparison.

    Args:
        comparison: Of up to 26 sides.
        outcome: Whether to say what it amounts to.
        console: Where to print; None means standard output.
    """
    letters = _SIDES[: len(comparison.names)]
    blocks: list[RenderableType] = [
        Group(
            *(
                Text(f"{letter}  {printable(name)}")
                for letter, name in zip(letters, comparison.names, strict=True)
            )
        )
    ]
    table = new_table("")
    table.title = None
    two = len(letters) == 2
    add_columns(table, "", [*letters, *(["change"] if two else [])])
    for letter in letters[1:]:
        table.add_column(f"{letter} is")
    for row in comparison.rows:
        figures = [row.first, *(cell.figure for cell in row.others)]
        changes = [_change(row.first, row.others[0])] if two else []
        table.add_row(
            text_cell(row.label + (" *" if row.decides and outcome else "")),
            *map(_shown, figures),
            *changes,
            *(Text(cell.word, _STYLES.get(cell.word, "")) for cell in row.others),
        )
    blocks.append(table)
    blocks += _unlike(comparison.rows, letters)
    for title, sides in (
        ("The jobs differ", comparison.job_differences),
        ("Machines or software differ", comparison.origin_differences),
    ):
        for letter, lines in zip(letters[1:], sides, strict=True):
            if lines:
                named = title if two else f"{title}, A and {letter}"
                blocks.append(
                    Group(Text(named, "bold"), *(text_cell(f"  {line}") for line in lines))
                )
    if outcome:
        words = WORDS[comparison.outcome]
        blocks.append(Text(f"outcome: {words} (* decides)", "bold"))
    print_blocks(blocks, console or Console())


def comparison_json(comparison: Comparison) -> str:
    """Write a comparison as JSON."""
    rows = [
        {
            "figure": row.key,
            "label": row.label,
            "decides": row.decides,
            "values": [_value(figure) for figure in (row.first, *(c.figure for c in row.others))],
            "against_first": [
                {
                    "verdict": cell.word,
                    "outcome": OUTCOMES[cell.word],
                    "difference": cell.difference,
                    "error": cell.error,
                    "paired": cell.paired,
                    "unlike": list(cell.unlike),
                }
                for cell in row.others
            ],
        }
        for row in comparison.rows
    ]
    document = {
        "format": "rdm_batch.comparison/1",
        "sides": list(comparison.names),
        "outcome": comparison.outcome,
        "exit_status": EXIT_CODES[comparison.outcome],
        "figures": rows,
        "job_differences": [list(lines) for lines in comparison.job_differences],
        "origin_differences": [list(lines) for lines in comparison.origin_differences],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _unlike(rows: Sequence[Row], letters: str) -> Iterator[RenderableType]:
    for row in rows:
        for letter, cell in zip(letters[1:], row.others, strict=True):
            if cell.unlike:
                which = "The two" if len(letters) == 2 else f"A and {letter}"
                yield Group(
                    Text(f"{which} do not compare in {printable(row.label)}", "bold"),
                    *(text_cell(f"  {line}") for line in cell.unlike),
                )


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    match figure.unit:
        case "s":
            return format_seconds(figure.value)
        case "B":
            return format_bytes(round(figure.value))
        case "images/s":
            return format_number(figure.value)
    if figure.name.endswith("_share"):
        return format_share(figure.value)
    return format_measured(figure.value, figure.error)


def _change(first: Figure | None, cell: Cell) -> str:
    if first is None or not first.value or cell.difference is None:
        return ""
    return f"{100 * cell.difference / abs(first.value):+.1f} %"


def _value(figure: Figure | None) -> dict[str, object] | None:
    if figure is None:
        return None
    return figure.model_dump(include={"value", "error", "unit", "better", "kind", "job"})
