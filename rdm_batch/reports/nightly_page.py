"""The page of a history of nights: verdicts first, then a card for every series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from rdm_batch.reports.figures import Tick
from rdm_batch.reports.page import template
from rdm_batch.reports.sweep_layout import Place, linear
from rdm_batch.reports.units import format_bytes, format_number, format_seconds

WIDTH, HEIGHT = 320.0, 120.0
"""Of a chart's area, in units of its drawing."""
_LINKED = ("http", "https", "file")
_DATES = 3
_LABEL = 60.0
"""Room that the label of a step takes."""


@dataclass(frozen=True)
class ShownVerdict:
    """Show one verdict: what it is about, what it says and why, and whether it decides."""

    outcome: str
    job: str
    gate: str
    figure: str
    reason: str
    decides: bool


@dataclass(frozen=True)
class ShownStep:
    """Show a change of level.

    Args:
        night: Number of the first night of the new level.
        change: As a part of the level before.
        commits: Between which commits it happened.
        started: When that night was.
        noticed: When it was told.
        worse: Whether it is for the worse; None where neither direction is.
        page: Where the page of that night's run is.
    """

    night: int
    change: float
    commits: str
    started: datetime
    noticed: datetime
    worse: bool | None
    page: str | None = None


@dataclass(frozen=True)
class ShownSeries:
    """Show one figure over the nights.

    Args:
        job: Whose.
        name: Which.
        unit: Of the values.
        better: Which of two values is better.
        started: When each night was.
        values: What was measured each night.
        levels: First night, last night and value of each stretch without a step.
        steps: Between the stretches.
        outcome: Of tonight's verdict on it; empty where there is none.
        decides: Whether that verdict decides.
        machine_class: Where it was measured.
        ratios: The values over the floors measured beside them; empty without floors.
        labels: Of each night, for whoever points at it.
        page: Where the page of tonight's run is.
    """

    job: str
    name: str
    unit: str
    better: str
    started: Sequence[datetime]
    values: Sequence[float]
    levels: Sequence[tuple[int, int, float]]
    steps: Sequence[ShownStep] = ()
    outcome: str = ""
    decides: bool = False
    machine_class: str = ""
    ratios: Sequence[float] = ()
    labels: Sequence[str] = ()
    page: str | None = None


@dataclass(frozen=True)
class ShownNight:
    """Show one run in the list of nights."""

    id: str
    started: datetime
    commit: str
    outcome: str
    machine_class: str


@dataclass(frozen=True)
class NightlyPage:
    """Hold all that the page shows.

    Args:
        suite: Name of the suite.
        nights: The runs, the latest last.
        verdicts: Of the latest, in the order they are shown.
        series: In the order they are shown.
        warnings: What was not read, and clocks that ran backwards.
        history: Where all of it is kept.
    """

    suite: str
    nights: Sequence[ShownNight]
    verdicts: Sequence[ShownVerdict]
    series: Sequence[ShownSeries]
    history: str
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class _Dot:
    x: float
    y: float
    label: str


@dataclass(frozen=True)
class _Chart:
    up: str
    ticks: tuple[Tick, ...]
    dates: tuple[Tick, ...]
    dots: tuple[_Dot, ...]
    line: str
    steps: tuple[Tick, ...]


@dataclass(frozen=True)
class _Card:
    series: ShownSeries
    now: str
    chart: _Chart
    over_floor: _Chart | None
    link: str | None
    steps: Sequence[ShownStep] = field(default_factory=tuple)


def render_nightly(page: NightlyPage) -> str:
    """Render the page, self-contained as that of a job.

    Args:
        page: What it shows; at least one night.
    """
    jobs = dict.fromkeys(series.job for series in page.series)
    return template("nightly.html.j2").render(
        page=page,
        last=page.nights[-1],
        groups=[(job, [_card(s) for s in page.series if s.job == job]) for job in jobs],
        deciding=[verdict for verdict in page.verdicts if verdict.decides],
        explaining=[verdict for verdict in page.verdicts if not verdict.decides],
        several_classes=len({series.machine_class for series in page.series}) > 1,
        width=WIDTH,
        height=HEIGHT,
        link=safe_link,
    )


def safe_link(target: str | None) -> str | None:
    """Give where a link may lead; None for what no browser opens, or only as a program.

    What a history says is not trusted: a link of another scheme could be a script.
    """
    if not target:
        return None
    try:
        scheme = urlsplit(target).scheme
    except ValueError:
        return None
    return target if scheme in _LINKED or target.startswith("/") else None


def _card(series: ShownSeries) -> _Card:
    ratios = list(series.ratios)
    return _Card(
        series=series,
        now=_shown(series.values[-1], series.unit),
        chart=_chart(series, series.values, True),
        over_floor=_chart(series, ratios, False) if ratios else None,
        link=safe_link(series.page),
        steps=tuple(reversed(series.steps)),
    )


def _chart(series: ShownSeries, values: Sequence[float], with_levels: bool) -> _Chart:
    up, ticks = linear(values, HEIGHT)
    last = max(1, len(values) - 1)

    def across(night: float) -> float:
        return WIDTH * night / last

    labels = series.labels or [""] * len(values)
    return _Chart(
        up=f"{series.name}, {series.unit}" if series.unit else series.name,
        ticks=tuple(Tick(HEIGHT - tick.position, _tick(tick.label, series.unit)) for tick in ticks),
        dates=_dates(series, across),
        dots=tuple(
            _Dot(across(float(night)), HEIGHT - up(value), label)
            for night, (value, label) in enumerate(zip(values, labels, strict=True))
        ),
        line=_levels(series, up, across) if with_levels else "",
        steps=_marks(series.steps, across, with_levels),
    )


def _marks(steps: Sequence[ShownStep], across: Place, labelled: bool) -> tuple[Tick, ...]:
    """Place the steps; of those that stand close together the last has its label."""
    marks: list[Tick] = []
    free_until = WIDTH + _LABEL
    for step in reversed(steps):
        x = across(step.night - 0.5)
        shown = labelled and x <= free_until - _LABEL
        marks.append(Tick(x, _percent(step.change) if shown else ""))
        free_until = x if shown else free_until
    return tuple(reversed(marks))


def _levels(series: ShownSeries, up: Place, across: Place) -> str:
    places = []
    for first, last, value in series.levels:
        y = HEIGHT - up(value)
        ends = max(0.0, first - 0.5), min(len(series.values) - 1.0, last + 0.5)
        places += [f"{across(night):.1f} {y:.1f}" for night in ends]
    return "M" + "L".join(places) if places else ""


def _dates(series: ShownSeries, across: Place) -> tuple[Tick, ...]:
    count = len(series.started)
    shown = sorted({round(part * (count - 1) / (_DATES - 1)) for part in range(_DATES)})
    return tuple(Tick(across(float(night)), f"{series.started[night]:%d %b %y}") for night in shown)


def _tick(label: str, unit: str) -> str:
    try:
        value = float(label)
    except ValueError:
        return label
    if unit == "B" and value > 0:
        return format_bytes(round(value))
    return f"{value:g}"


def _shown(value: float, unit: str) -> str:
    if unit == "s":
        return format_seconds(value)
    if unit == "B" and value >= 0:
        return format_bytes(round(value))
    return f"{format_number(value)} {unit}".rstrip()


def _percent(change: float) -> str:
    return f"{change:+.1%}".replace("-", "−")
