"""Compare two records of a benchmark, before a change and after it, on one machine.

    python -m benchmarks.compare BEFORE.json AFTER.json

Rows of the same part and name stand beside each other; the ratio says how many times better the
second is. Records of different machines, or of different benchmarks, are refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.page import section
from benchmarks.recorder import run
from benchmarks.records import FORM, Record, Row, check_same_machine, read_record
from rdm_batch.errors import RdmBatchError


def compare(before: Record, after: Record, where: str) -> list[str]:
    """Lay the rows that both have out in Markdown, the earlier figure as the baseline.

    Args:
        before: What ratios compare with.
        after: What is compared.
        where: Where ``before`` was read, for messages.

    Raises:
        RdmBatchError: They are of different benchmarks or machines, or share no part.
    """
    if before.benchmark != after.benchmark:
        raise RdmBatchError(
            where, f"holds results of {before.benchmark}", f"those of {after.benchmark}"
        )
    check_same_machine(where, before.machine, after.machine, "measure both on one machine")
    known = {(part.name, row.name): row for part in before.parts for row in part.rows}
    settings = {part.name: part.settings for part in before.parts}
    lines: list[str] = []
    for part in after.parts:
        rows = [
            Row(
                name=row.name,
                value=row.value,
                unit=row.unit,
                higher_is_better=row.higher_is_better,
                baseline=known[part.name, row.name].value,
            )
            for row in part.rows
            if row.value is not None and (part.name, row.name) in known
        ]
        if rows:
            same = settings[part.name] == part.settings
            note = "" if same else f"Settings differ. Before: {settings[part.name]}."
            lines += [
                "",
                *section(part.model_copy(update={"notes": (note,) if note else ()}), rows),
            ]
    if not lines:
        raise RdmBatchError(where, "shares no row with the other", "parts that both have")
    return lines[1:]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args(argv)
    before, after = (_read(path) for path in (args.before, args.after))
    print("\n".join(compare(before, after, str(args.before))))


def _read(path: Path) -> Record:
    record = read_record(path)
    if record is None:
        raise RdmBatchError(str(path), "is of an earlier form", f"results of form {FORM}")
    return record


if __name__ == "__main__":
    run(main)
