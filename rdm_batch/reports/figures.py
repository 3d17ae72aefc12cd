"""The geometry of the page's figures; the template draws them.

Positions and sizes are percent of the figure, so that a figure fits any width while its
text keeps its size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from rdm_batch.reports.latency import LatencySummary
from rdm_batch.reports.run_report import Stage
from rdm_batch.reports.units import format_number, format_seconds
from rdm_batch.specs.scores import Score

_MIN_BINS, _MAX_BINS = 8, 40
_MAX_TICKS = 7

# Latencies that spread over this factor are drawn on a logarithmic axis.
_LOG_FROM = 8.0


@dataclass(frozen=True)
class Tick:
    """Mark a place on an axis."""

    position: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """Lay out a histogram: bar heights from left to right, axis, percentile marks."""

    heights: tuple[float, ...]
    peak: int
    ticks: tuple[Tick, ...]
    marks: tuple[Tick, ...]
    logarithmic: bool


@dataclass(frozen=True)
class Bar:
    """Lay out one horizontal bar."""

    name: str
    left: float
    width: float
    label: str


@dataclass(frozen=True)
class Timeline:
    """Lay out stages below each other on a common clock."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class PrecisionRecall:
    """Place one run in the plane of precision and recall, with its error bars."""

    recall: Score
    precision: Score
    x: float
    y: float
    x_error: float
    y_error: float


def histogram(seconds: Float64[np.ndarray, " n"], summary: LatencySummary) -> Histogram:
    """Lay out the histogram of raw latencies with marks at p50, p95 and p99.

    Args:
        seconds: All values, at least one.
        summary: Their summary.
    """
    low_s, high_s = summary.min_s, summary.max_s
    if low_s == high_s:
        low_s, high_s = 0.5 * low_s, 1.5 * high_s or 1.0
    logarithmic = low_s > 0 and high_s / low_s >= _LOG_FROM
    make_edges = np.geomspace if logarithmic else np.linspace
    num_bins = min(_MAX_BINS, max(_MIN_BINS, 2 * math.isqrt(len(seconds))))
    edges = make_edges(low_s, high_s, num_bins + 1)
    # Rounding must not push the extremes out of the outer bins.
    edges[0], edges[-1] = low_s, high_s
    counts, _ = np.histogram(seconds, edges)

    def place(value_s: float) -> float:
        if logarithmic:
            return 100 * math.log(value_s / low_s) / math.log(high_s / low_s)
        return 100 * (value_s - low_s) / (high_s - low_s)

    ticks_s = log_ticks(low_s, high_s) if logarithmic else linear_ticks(low_s, high_s)
    percentiles = (("p50", summary.p50_s), ("p95", summary.p95_s), ("p99", summary.p99_s))
    return Histogram(
        heights=tuple(100 * float(count) / counts.max() for count in counts),
        peak=int(counts.max()),
        ticks=tuple(Tick(place(value), _tick_label(value)) for value in ticks_s),
        marks=tuple(
            Tick(place(value), f"{name} {format_seconds(value)}") for name, value in percentiles
        ),
        logarithmic=logarithmic,
    )


def timeline(stages: tuple[Stage, ...]) -> Timeline:
    """Lay out the stages of a start-up; at least one."""
    end_s = max(stage.end_s for stage in stages) or 1.0
    return Timeline(
        bars=tuple(
            Bar(
                name=stage.name,
                left=100 * stage.start_s / end_s,
                width=100 * (stage.end_s - stage.start_s) / end_s,
                label=format_seconds(stage.end_s - stage.start_s),
            )
            for stage in stages
        ),
        ticks=tuple(
            Tick(100 * value / end_s, f"{value:g} s") for value in linear_ticks(0.0, end_s)
        ),
    )


def precision_recall(scores: tuple[Score, ...]) -> PrecisionRecall | None:
    """Place the run by its precision and recall; None unless it has both."""
    by_id = {score.id: score for score in scores}
    precision, recall = by_id.get("precision"), by_id.get("recall")
    if precision is None or recall is None:
        return None
    return PrecisionRecall(
        recall=recall,
        precision=precision,
        x=100 * recall.value,
        y=100 * precision.value,
        x_error=100 * (recall.uncertainty or 0.0),
        y_error=100 * (precision.uncertainty or 0.0),
    )


def linear_ticks(low: float, high: float) -> list[float]:
    """Choose round values in a range, steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / (_MAX_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Choose 1, 2 and 5 times powers of ten in a range; powers alone where those are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [value for value in fine if low <= value <= high]
    if len(inside) <= _MAX_TICKS:
        return inside
    return [10.0**power for power in powers if low <= 10.0**power <= high]


def _tick_label(seconds: float) -> str:
    if seconds == 0:
        return "0"
    unit, scale = ("ms", 1000) if seconds < 1 else ("s", 1)
    value = float(format_number(seconds * scale, 3).replace(",", ""))
    return f"{value:g} {unit}"
