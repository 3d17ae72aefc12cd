"""What the nightly commands print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.text import Text

from rdm_batch.regression.history import Contents
from rdm_batch.regression.records import Outcome, Run, Verdict
from rdm_batch.reports.table import new_table, print_blocks, text_cell
from rdm_batch.reports.units import format_number, printable

WORDS: dict[Outcome, str] = {
    "pass": "pass",
    "fail": "FAIL",
    "undecided": "undecided",
    "no_baseline": "no baseline",
    "not_comparable": "not comparable",
}
_STYLES: dict[Outcome, str] = {"pass": "green", "fail": "bold red"}


def print_run(run: Run, notes: Sequence[str], console: Console | None = None) -> None:
    """Print what the gates said of a run; None means standard output."""
    blocks: list[RenderableType] = [
        Text(f"Run {run.id} of {run.suite} on {run.machine_class}", "bold")
    ]
    shown = [verdict for verdict in run.verdicts if verdict.decides or verdict.outcome == "fail"]
    lines = []
    for verdict in shown:
        line = Text()
        line.append(f"{WORDS[verdict.outcome]}  ", _STYLES.get(verdict.outcome, "bold"))
        line.append(f"{printable(verdict.job)}, {_gate(verdict)}: {printable(verdict.reason)}")
        lines.append(line)
    blocks.append(Group(*lines))
    if len(shown) < len(run.verdicts):
        more = len(run.verdicts) - len(shown)
        blocks.append(text_cell(f"{more} verdicts that only explain are in the history"))
    blocks += [text_cell(f"note: {note}") for note in notes]
    blocks.append(Text(f"outcome: {WORDS[run.outcome]}", _STYLES.get(run.outcome, "bold")))
    print_blocks(blocks, console or Console())


def print_history(contents: Contents, console: Console | None = None) -> None:
    """Print the runs of a history, the latest last; None means standard output."""
    table = new_table("Runs")
    for name in ("run", "suite", "commit", "outcome"):
        table.add_column(name, no_wrap=True)
    table.add_column("on", overflow="fold")
    for run in contents.runs:
        commit = (run.commit or "-")[:10] + ("-dirty" if run.dirty else "")
        table.add_row(
            run.id,
            text_cell(run.suite),
            commit,
            Text(WORDS[run.outcome], _STYLES.get(run.outcome, "")),
            text_cell(run.machine_class),
        )
    notes = [*contents.unread, *contents.backwards]
    print_blocks([table, *(text_cell(f"note: {note}") for note in notes)], console or Console())


def print_series(contents: Contents, job: str, figure: str, console: Console | None = None) -> int:
    """Print one figure over all runs; give how many have it.

    Where what was measured has changed, a line says so: what is on its two sides does not compare.
    """
    table = new_table(f"{figure} of {job}")
    for name in ("run", "value", "error", "of floor"):
        table.add_column(name, no_wrap=True, justify="left" if name == "run" else "right")
    table.add_column("on", overflow="fold")
    last: tuple[str, str] | None = None
    count = 0
    for run in contents.runs:
        found = run.figure(job, figure)
        if found is None:
            continue
        measured = (found.description, run.machine_class if found.kind != "quality" else "")
        if last is not None and measured != last:
            table.add_row(Text("-- measured otherwise from here on --", "bright_black"))
        last, count = measured, count + 1
        table.add_row(
            run.id,
            f"{format_number(found.value, 4)} {found.unit}".strip(),
            "" if found.error is None else format_number(found.error, 2),
            "" if not found.floor else format_number(found.value / found.floor, 3),
            text_cell(run.machine_class),
        )
    if count:
        print_blocks([table], console or Console())
    return count


def _gate(verdict: Verdict) -> str:
    name = verdict.gate if verdict.figure is None else f"{verdict.gate} {verdict.figure}"
    return name if verdict.decides else f"({name})"
