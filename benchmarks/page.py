"""Lay a record out as a page, in one form for every benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from benchmarks.records import Part, Record, Row, describe

_COLUMNS = ("what", "measured", "baseline", "ratio", "floor", "gap", "needed")


def page(record: Record) -> str:
    """Lay a record out in Markdown."""
    lines = [f"# {record.title}", "", f"{record.about} Machine: {describe(record.machine)}."]
    if record.baseline:
        lines += ["", f"Ratio: times better than {record.baseline}; above 1 is better."]
    for part in record.parts:
        lines += ["", *section(part, part.rows)]
    lines += ["", "## How it was measured", ""]
    titles = ("part", "at (UTC)", "took s", "load before", "commit", "command")
    body = [
        [
            part.name,
            f"{part.measured:%Y-%m-%d %H:%M}",
            f"{part.took_s:.0f}",
            f"{part.load_average:.1f}",
            _short(part.commit),
            f"`{part.command}`",
        ]
        for part in record.parts
    ]
    versions = {", ".join(f"{k} {v}" for k, v in part.software.items()) for part in record.parts}
    lines += [*table(titles, body), *(line for one in sorted(versions) for line in ("", one))]
    return "\n".join(lines) + "\n"


def _short(commit: str | None) -> str:
    name, dash, dirty = (commit or "").partition("-")
    return name[:12] + dash + dirty


def section(part: Part, rows: Sequence[Row]) -> list[str]:
    """Lay rows of a part out in Markdown, under its settings."""
    lines = [f"## {part.name}", ""]
    if part.settings:
        lines += ["; ".join(f"{name}: {_shown(value)}" for name, value in part.settings.items())]
        lines += [""]
    lines += rows_table(rows)
    return lines + [line for note in part.notes for line in ("", note)]


def rows_table(rows: Sequence[Row]) -> list[str]:
    """Lay rows out as a Markdown table; columns that all leave empty are left out."""
    cells = [dict(_cells(row)) for row in rows]
    found = dict.fromkeys(name for row in cells for name, text in row.items() if text)
    # Details come last, and after those of the first rows those that only others have.
    order = {name: place for place, name in enumerate(_COLUMNS)}
    titles = sorted(found, key=lambda name: order.get(name, len(order)))
    return table(titles, [[row.get(title, "") for title in titles] for row in cells])


def _cells(row: Row) -> Iterator[tuple[str, str]]:
    yield "what", row.name
    for name in ("measured", "baseline", "floor"):
        figure = row.value if name == "measured" else getattr(row, name)
        yield name, "" if figure is None else f"{_shown(figure)} {row.unit}".rstrip()
    for name in ("ratio", "gap"):
        factor = getattr(row, name)
        yield name, "" if factor is None else f"{factor:.2f}"
    asked = []
    if row.needed is not None:
        bound = "or more" if row.higher_is_better else "or less"
        asked.append(f"{_shown(row.needed)} {row.unit}".rstrip() + f" {bound}")
    if row.needed_ratio is not None:
        asked.append(f"{row.needed_ratio:g} x")
    yield "needed", ", ".join(asked) + (": **missed**" if row.met is False else "")
    for name, value in row.details.items():
        yield name, "" if value is None else _shown(value)


def _shown(value: JsonValue) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int() | float() if abs(value) >= 1000:
            return f"{value:,.0f}"
        case float():
            return f"{value:.4g}"
        case list():
            return " ".join(map(_shown, value))
        case _:
            return str(value)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a Markdown table."""
    lines = [list(titles), ["---"] * len(titles), *map(list, rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
