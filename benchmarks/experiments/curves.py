"""Draw the curves of what ``benchmarks.experiments`` measured of the shapes world.

    python -m benchmarks.experiments.curves --pictures docs/pictures

Inputs: ``world.json`` and ``subworlds.json`` of ``--results``, of this form or the earlier one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.experiments.subworlds import PAIRS
from benchmarks.recorder import run
from benchmarks.records import read_record

RESULTS = Path("benchmarks/results")
WHOLE = "6 shapes, 4 styles"
HEADS = ("rdm", "rarm")
Found = dict[str, Any]
Panel = Callable[[Axes, list[Found]], None]


def read_rows(path: Path) -> list[Found]:
    """Read what was found, each row with the part and the head it is of.

    The earlier form had nothing but such rows.
    """
    record = read_record(path)
    if record is None:
        rows: list[Found] = json.loads(path.read_text())["rows"]
        return rows
    return [
        {"part": part.settings["part"], "head": part.settings.get("head"), **row.details}
        for part in record.parts
        if not part.settings.get("quick")
        for row in part.rows
    ]


def curves(rows: list[Found], path: Path, panels: Sequence[Panel]) -> None:
    """Draw panels side by side."""
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(panels):
        panel(figure.add_subplot(1, len(panels), place + 1), rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def trade(part: str, setting: str, head: str) -> Panel:
    """Draw precision and recall (left) and FID (right) over a setting."""

    def draw(axes: Axes, rows: list[Found]) -> None:
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

    def draw(axes: Axes, rows: list[Found]) -> None:
        for head in pair:
            chosen = [row for row in rows if row["part"] == "complexity" and row["head"] == head]
            names = [row["world"].replace(", ", "\n") for row in chosen]
            axes.plot(names, [row[score] for row in chosen], "o-", label=head.upper())
        axes.set(title=score.replace("fid", "FID"), ylim=(0, None))
        axes.tick_params(axis="x", labelsize=8)
        axes.legend()

    return draw


def follow(axes: Axes, rows: list[Found]) -> None:
    """Draw text following over k_train."""
    chosen = sorted((row for row in rows if row["part"] == "k_train"), key=lambda r: r["k_train"])
    over = [str(row["k_train"]) for row in chosen]
    axes.plot(over, [row["query"] for row in chosen], "o-", label="text alone")
    axes.plot(over, [row["neighbors"] for row in chosen], "s-", label="neighbors of the text")
    axes.set(xlabel="k_train", ylabel="shape and color both right", ylim=(0, 1.02))
    axes.legend()


def main(argv: Sequence[str] | None = None) -> None:
    """Draw every curve there are rows for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the figures")
    parser.add_argument("--pictures", type=Path, required=True, help="folder for the curves")
    args = parser.parse_args(argv)
    world, subworlds = (read_rows(args.results / f"{name}.json") for name in ("world", "subworlds"))
    # What ships is the largest of the nested worlds, scored in the same way.
    subworlds += [
        row | {"part": "complexity", "world": WHOLE, "outside": 0.0, "fid inside": row["fid"]}
        for row in world
        if row["part"] == "parametric"
    ]
    for part in ("top_m", "guidance"):
        panels = [trade(part, part, head) for head in HEADS]
        curves(world, args.pictures / f"curve-{part.replace('_', '-')}.png", panels)
    if any(row["part"] == "complexity" for row in subworlds):
        for pair in PAIRS:
            panels = [complexity(score, pair) for score in ("fid", "fid inside", "recall")]
            curves(subworlds, args.pictures / f"curve-complexity-{pair[0]}.png", panels)
    curves(subworlds, args.pictures / "curve-k-train.png", [follow])


if __name__ == "__main__":
    run(main)
