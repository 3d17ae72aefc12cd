"""Make tables and curves of what ``benchmarks.world`` and ``benchmarks.subworlds`` measured.

    python -m benchmarks.world_page --pictures docs/pictures

Reads ``benchmarks/results/world.json`` and ``subworlds.json``, writes ``world.md`` beside
them and the curves into the folder given.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.world_rows import Row, read_rows

RESULTS = Path("benchmarks/results")
# (claim, case, attribute, needed of RDM, needed of RARM)
CLAIMS = (
    ("class-conditional, right shape", "class", "shape", 0.95, 0.85),
    ("text, by its neighbors: shape and color", "neighbors of text", "shape and color", 0.85, 0.7),
    ("text and its neighbors: shape and color", "text + neighbors", "shape and color", 0.85, 0.7),
    ("text alone: shape and color", "text, direct", "shape and color", 0.85, 0.7),
    ("style database exchanged: right style", "dotted database", "style", 0.9, 0.8),
    ("pairs never in X but in D: shape and color", "held-out pairs", "shape and color", 0.8, 0.6),
)
WORLD_PARTS = {
    "top_m": "Top-m",
    "guidance": "Guidance",
    "copying": "Copying",
    "parametric": "Without neighbors",
}
SUBWORLD_PARTS = {"complexity": "Parts of growing complexity", "k_train": "k_train"}
WHOLE = "6 shapes, 4 styles"
HEADS = ("rdm", "rarm")
Panel = Callable[[Axes, list[Row]], None]
PAIRS = (("rdm", "ldm"), ("rarm", "ar"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def claims_table(rows: list[Row]) -> str:
    """Set what was measured beside what was asked."""
    found = {(row["head"], row["case"]): row for row in rows if row["part"] == "claims"}
    header = ["claim", *(f"{name.upper()} {part}" for name in HEADS for part in ("", "needed"))]
    body = []
    for claim, case, attribute, *needed in CLAIMS:
        cells = [claim]
        for head, least in zip(HEADS, needed, strict=True):
            row = found.get((head, case))
            cells += [_percent(row[attribute]) if row else "", f"{least:.0%}"]
        body.append(cells)
    return table([name.strip() for name in header], body)


def cases_table(rows: list[Row]) -> str:
    """Show every way of conditioning with every attribute that was asked for."""
    attributes = ("shape", "color", "shape and color", "style", "size", "position", "background")
    body = [
        [row.get("head", "judge alone"), row["case"]]
        + [_percent(row[name]) if name in row else "" for name in attributes]
        for row in rows
        if row["part"] in ("judge", "claims")
    ]
    return table(["head", "case", *attributes], body)


def part_table(rows: list[Row]) -> str:
    """Show all columns of one part, as measured."""
    names = [name for name in rows[0] if name != "part"]
    return table(names, ([_shown(row[name]) for name in names] for row in rows))


def curves(rows: list[Row], path: Path, panels: Sequence[Panel]) -> None:
    """Draw panels side by side."""
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(panels):
        panel(figure.add_subplot(1, len(panels), place + 1), rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def trade(part: str, setting: str, head: str) -> Panel:
    """Draw precision and recall (left) and FID (right) over a setting."""

    def draw(axes: Axes, rows: list[Row]) -> None:
        chosen = [row for row in rows if row["part"] == part and row["head"] == head]
        over = [str(row[setting]) for row in chosen]
        axes.plot(over, [row["precision"] for row in chosen], "o-", label="precision")
        axes.plot(over, [row["recall"] for row in chosen], "s-", label="recall")
        axes.set(xlabel=setting, ylim=(0, 1.02), title=head.upper())
        other = axes.twinx()
        other.plot(over, [row["fid"] for row in chosen], "k^:", label="FID")
        other.set(ylabel="FID", ylim=(0, None))
        axes.plot([], [], "k^:", label="FID (right)")
        axes.legend(fontsize=8, loc="center left")

    return draw


def complexity(score: str, pair: tuple[str, str]) -> Panel:
    """Draw a score of a head and its twin without neighbors over the parts of the world."""

    def draw(axes: Axes, rows: list[Row]) -> None:
        for head in pair:
            chosen = [row for row in rows if row["part"] == "complexity" and row["head"] == head]
            names = [row["world"].replace(", ", "\n") for row in chosen]
            axes.plot(names, [row[score] for row in chosen], "o-", label=head.upper())
        axes.set(title=score.replace("fid", "FID"), ylim=(0, None))
        axes.tick_params(axis="x", labelsize=8)
        axes.legend()

    return draw


def follow(axes: Axes, rows: list[Row]) -> None:
    """Draw text following over k_train."""
    chosen = sorted((row for row in rows if row["part"] == "k_train"), key=lambda r: r["k_train"])
    over = [str(row["k_train"]) for row in chosen]
    axes.plot(over, [row["query"] for row in chosen], "o-", label="text alone")
    axes.plot(over, [row["neighbors"] for row in chosen], "s-", label="neighbors of the text")
    axes.set(xlabel="k_train", ylabel="shape and color both right", ylim=(0, 1.02))
    axes.legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="folder for the curves")
    args = parser.parse_args()
    world, subworlds = read_rows(RESULTS / "world.json"), read_rows(RESULTS / "subworlds.json")
    # What ships is the largest of the nested worlds, scored in the same way.
    subworlds += [
        row | {"part": "complexity", "world": WHOLE, "outside": 0.0, "fid inside": row["fid"]}
        for row in world
        if row["part"] == "parametric"
    ]
    sections = [
        "# The shapes world, measured\n",
        claims_table(world),
        "## Every way of conditioning\n",
        cases_table(world),
    ]
    for rows, titles in ((world, WORLD_PARTS), (subworlds, SUBWORLD_PARTS)):
        for part, title in titles.items():
            found = [row for row in rows if row["part"] == part]
            text = part_table(found) if found else "Not measured yet.\n"
            sections += [f"## {title}\n", text]
    (RESULTS / "world.md").write_text("\n".join(sections))
    for part in ("top_m", "guidance"):
        panels = [trade(part, part, head) for head in HEADS]
        curves(world, args.pictures / f"curve-{part.replace('_', '-')}.png", panels)
    if any(row["part"] == "complexity" for row in subworlds):
        for pair in PAIRS:
            panels = [complexity(score, pair) for score in ("fid", "fid inside", "recall")]
            curves(subworlds, args.pictures / f"curve-complexity-{pair[0]}.png", panels)
    curves(subworlds, args.pictures / "curve-k-train.png", [follow])


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
