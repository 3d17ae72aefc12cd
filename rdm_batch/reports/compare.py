"""Two finished jobs side by side, with what keeps them from being compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from pydantic import JsonValue
from rich.console import Console, Group, RenderableType
from rich.text import Text

from rdm_batch.reports.run_report import RunReport
from rdm_batch.reports.table import (
    add_columns,
    leaves,
    new_table,
    print_blocks,
    score_label,
    short_value,
    text_cell,
    with_arrow,
)
from rdm_batch.reports.units import (
    format_measured,
    format_number,
    format_seconds,
    format_share,
    printable,
)
from rdm_batch.specs.scores import Better, Score

# Differences below this many combined standard deviations are not differences.
_SIGMAS = 2.0

DEFAULT_TOLERANCE = 0.05


class Verdict(Enum):
    """Say what the second of two figures is beside the first."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    UNKNOWN = "no verdict"


_STYLES = {Verdict.BETTER: "green", Verdict.WORSE: "red", Verdict.SAME: "", Verdict.UNKNOWN: ""}


@dataclass(frozen=True)
class Row:
    """Hold one figure of both runs; a missing one is shown as ``-``.

    ``note`` says why there is no verdict; ``unlike`` lists what keeps two scores from being
    compared.
    """

    name: str
    first: str
    second: str
    change: str
    verdict: Verdict
    note: str = ""
    unlike: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Hold all figures of two runs, and how their jobs and machines differ."""

    rows: tuple[Row, ...]
    job_differences: tuple[str, ...]
    origin_differences: tuple[str, ...]

    @property
    def worse(self) -> tuple[str, ...]:
        """Name the figures that got worse."""
        return tuple(row.name for row in self.rows if row.verdict is Verdict.WORSE)


def compare(
    first: RunReport, second: RunReport, tolerance: float = DEFAULT_TOLERANCE
) -> Comparison:
    """Compare a second run with a first.

    Speeds and latencies are the same when they differ by at most ``tolerance``. Scores are
    compared only when their descriptions are equal; they are the same within two combined
    standard deviations, or within ``tolerance`` where no uncertainty is known.

    Args:
        first: The run to measure against.
        second: The run in question.
        tolerance: Relative difference that is taken for noise, at least 0.
    """
    mine, others = _of_scores(first.scores, second.scores)
    rows = [
        *_speed_rows(first, second, tolerance),
        *_quality_rows(_index_recall(first) | mine, _index_recall(second) | others, tolerance),
    ]
    return Comparison(
        rows=tuple(rows),
        job_differences=tuple(_differences(first.spec, second.spec)),
        origin_differences=tuple(_differences(_origin(first), _origin(second))),
    )


def compare_scores(
    first: Sequence[Score], second: Sequence[Score], tolerance: float = DEFAULT_TOLERANCE
) -> Comparison:
    """Compare scores alone, as ``compare`` compares those of runs."""
    mine, others = _of_scores(first, second)
    return Comparison(tuple(_quality_rows(mine, others, tolerance)), (), ())


def print_comparison(
    first: RunReport,
    second: RunReport,
    comparison: Comparison,
    console: Console | None = None,
) -> None:
    """Print a comparison; None means standard output."""
    print_rows(_origin_line(first), _origin_line(second), comparison, console)


def print_rows(
    first: str, second: str, comparison: Comparison, console: Console | None = None
) -> None:
    """Print a comparison of two things by name; None means standard output."""
    blocks: list[RenderableType] = []
    names = (("A", first), ("B", second))
    blocks.append(Group(*(Text(f"{letter}  {printable(name)}") for letter, name in names)))
    table = new_table("")
    table.title = None
    add_columns(table, "", ("A", "B", "change"))
    table.add_column("B is")
    for row in comparison.rows:
        table.add_row(
            text_cell(row.name),
            row.first,
            row.second,
            row.change,
            Text(row.note or row.verdict.value, _STYLES[row.verdict]),
        )
    blocks.append(table)
    blocks.extend(
        Group(
            Text(f"The two do not compare in {printable(row.name)}", "bold"),
            *(text_cell(f"  {line}") for line in row.unlike),
        )
        for row in comparison.rows
        if row.unlike
    )
    for title, lines in (
        ("The jobs differ", comparison.job_differences),
        ("Machines or software differ", comparison.origin_differences),
    ):
        if lines:
            blocks.append(Group(Text(title, "bold"), *(text_cell(f"  {line}") for line in lines)))
    print_blocks(blocks, console or Console())


def _origin_line(report: RunReport) -> str:
    started = report.provenance.started.strftime("%Y-%m-%d %H:%M")
    return f"{report.job_name}, {started}, {report.sample_set.uri}"


def _speed_rows(first: RunReport, second: RunReport, tolerance: float) -> Iterator[Row]:
    others = {figure.name: figure for figure in _figures(second)}
    for mine in _figures(first):
        other = others[mine.name]
        if mine.value is None and other.value is None:
            continue
        yield Row(
            name=mine.name,
            first="-" if mine.value is None else mine.show(mine.value),
            second="-" if other.value is None else other.show(other.value),
            change=_change(mine.value, other.value),
            verdict=_judge(mine.value, other.value, mine.better, tolerance),
        )


@dataclass(frozen=True)
class _Figure:
    name: str
    value: float | None
    better: Better
    show: Callable[[float], str]


def _figures(report: RunReport) -> Iterator[_Figure]:
    """List the figures of speed, the same names in the same order for every report."""
    speed, retrieval = report.throughput, report.retrieval
    yield _Figure("images/s", speed.images_per_s, "higher", format_number)
    with_start_up = speed.images_per_s_with_start_up
    yield _Figure("images/s overall", with_start_up, "higher", format_number)
    yield _Figure("start-up", speed.start_up_s, "lower", format_seconds)
    yield _Figure("time in the model", speed.model_share, "higher", format_share)
    yield _Figure("time of GPUs drawing", speed.gpu_share, "higher", format_share)
    yield _Figure("share of peak FLOP/s", speed.peak_share, "higher", format_share)
    for scope in ("query", "batch"):
        latency = None if retrieval is None else getattr(retrieval, f"per_{scope}")
        for percentile in ("p50", "p95", "p99"):
            value = None if latency is None else getattr(latency, f"{percentile}_s")
            yield _Figure(f"{scope} latency {percentile}", value, "lower", format_seconds)


@dataclass(frozen=True)
class _Quality:
    """A measured figure with its uncertainty and the conditions it was measured under."""

    name: str
    value: float
    uncertainty: float | None
    better: Better
    conditions: dict[str, JsonValue]


def _of_scores(*sides: Sequence[Score]) -> list[dict[str, _Quality]]:
    """Give the scores of each side by id."""
    among = [score for side in sides for score in side]
    return [
        {
            score.id: _Quality(
                name=score_label(score, among),
                value=score.value,
                uncertainty=score.uncertainty,
                better=score.better,
                conditions=score.description.conditions(),
            )
            for score in side
        }
        for side in sides
    ]


def _index_recall(report: RunReport) -> dict[str, _Quality]:
    if report.retrieval is None or report.retrieval.recall is None:
        return {}
    recall = report.retrieval.recall
    # The binomial error of queries x k independent hits: the least it can be.
    error = math.sqrt(recall.value * (1 - recall.value) / (recall.queries * recall.k))
    name = with_arrow("index recall", "higher")
    return {name: _Quality(name, recall.value, error, "higher", {"k": recall.k})}


def _quality_rows(
    first: dict[str, _Quality], second: dict[str, _Quality], tolerance: float
) -> Iterator[Row]:
    """Compare figures of one key, those of the first run in their order, then the others."""
    for key in first | second:
        mine, other = first.get(key), second.get(key)
        if mine is None or other is None:
            yield Row(
                name=(mine or second[key]).name,
                first=_measured(mine),
                second=_measured(other),
                change="",
                verdict=Verdict.UNKNOWN,
                note="only in B" if mine is None else "only in A",
            )
            continue
        unlike = tuple(_differences(mine.conditions, other.conditions))
        yield Row(
            name=mine.name,
            first=_measured(mine),
            second=_measured(other),
            change=_change(mine.value, other.value),
            verdict=Verdict.UNKNOWN if unlike else _judge_quality(mine, other, tolerance),
            note="not comparable" if unlike else "",
            unlike=unlike,
        )


def _measured(quality: _Quality | None) -> str:
    return "-" if quality is None else format_measured(quality.value, quality.uncertainty)


def _change(first: float | None, second: float | None) -> str:
    if not first or second is None:
        return ""
    return f"{100 * (second - first) / abs(first):+.1f} %"


def _judge(first: float | None, second: float | None, better: Better, tolerance: float) -> Verdict:
    if first is None or second is None:
        return Verdict.UNKNOWN
    return _direction(second - first, tolerance * abs(first), better)


def _judge_quality(first: _Quality, second: _Quality, tolerance: float) -> Verdict:
    if first.uncertainty is None or second.uncertainty is None:
        return _judge(first.value, second.value, first.better, tolerance)
    noise = _SIGMAS * math.hypot(first.uncertainty, second.uncertainty)
    return _direction(second.value - first.value, noise, first.better)


def _direction(difference: float, noise: float, better: Better) -> Verdict:
    if abs(difference) <= noise:
        return Verdict.SAME
    if better is None:
        return Verdict.UNKNOWN
    return Verdict.BETTER if (difference > 0) == (better == "higher") else Verdict.WORSE


def _origin(report: RunReport) -> dict[str, JsonValue]:
    provenance = report.provenance
    return {
        "machine": provenance.machine.model_dump(mode="json"),
        "git_commit": provenance.git_commit,
        "ray_nodes": len(provenance.ray_nodes),
        "heads": dict(Counter(head.device for head in report.throughput.heads)),
        "software": dict(sorted(provenance.software.items())),
    }


def _differences(first: Mapping[str, JsonValue], second: Mapping[str, JsonValue]) -> Iterator[str]:
    """List the leaves of two trees that differ, as ``name: first -> second``."""
    old, new = dict(leaves(first)), dict(leaves(second))
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in old or name not in new or old[name] != new[name]:
            sides = (short_value(tree.get(name, "not set")) for tree in (old, new))
            yield f"{name}: {' -> '.join(sides)}"
