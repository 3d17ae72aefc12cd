"""Results of the shapes world's benchmarks: rows in one file, measured one head at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def write_rows(path: Path, settings: dict[str, int | float], rows: list[Row]) -> None:
    """Write rows to a file, in place of those of the same parts and heads measured before.

    Heads can so be measured one at a time; rows of other settings are not kept.
    """
    kept: list[Row] = []
    if path.exists():
        before = json.loads(path.read_text())
        if all(before.get(name) == value for name, value in settings.items()):
            fresh = {_subject(row) for row in rows}
            kept = [row for row in before["rows"] if _subject(row) not in fresh]
    path.write_text(json.dumps(settings | {"rows": kept + rows}, indent=1) + "\n")


def _subject(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(name)) for name in ("part", "head", "world", "k_train"))


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file."""
    rows: list[Row] = json.loads(path.read_text())["rows"]
    return rows
