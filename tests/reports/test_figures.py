from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.reports.figures import (
    histogram,
    linear_ticks,
    log_ticks,
    precision_recall,
    timeline,
)
from rdm_batch.reports.latency import summarize_latencies
from rdm_batch.reports.run_report import Stage
from tests.reports.fixtures import make_latencies, make_report, make_score


def test_histogram_counts_every_value() -> None:
    seconds = make_latencies().query_s
    figure = histogram(seconds, summarize_latencies(seconds))
    counts = [height * figure.peak / 100 for height in figure.heights]
    assert sum(counts) == pytest.approx(len(seconds))
    assert max(figure.heights) == 100


def test_wide_spread_is_drawn_on_a_logarithmic_axis() -> None:
    seconds = np.geomspace(0.001, 0.1, 101)
    figure = histogram(seconds, summarize_latencies(seconds))
    assert figure.logarithmic
    assert [tick.label for tick in figure.ticks] == [
        *("1 ms", "2 ms", "5 ms", "10 ms", "20 ms", "50 ms", "100 ms")
    ]
    assert figure.ticks[3].position == pytest.approx(50)
    assert figure.marks[0].position == pytest.approx(50)


def test_narrow_spread_is_drawn_on_a_linear_axis() -> None:
    seconds = np.linspace(1.0, 2.0, 101)
    figure = histogram(seconds, summarize_latencies(seconds))
    assert not figure.logarithmic
    assert [mark.label for mark in figure.marks] == ["p50 1.50 s", "p95 1.95 s", "p99 1.99 s"]
    assert [mark.position for mark in figure.marks] == pytest.approx([50, 95, 99])


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_equal_latencies_make_one_column(value: float) -> None:
    seconds = np.full(7, value)
    figure = histogram(seconds, summarize_latencies(seconds))
    assert figure.peak == 7
    assert sorted(figure.heights)[-2:] == [0, 100]


def test_timeline_shares_one_clock() -> None:
    figure = timeline((Stage(name="a", start_s=0, end_s=4), Stage(name="b", start_s=2, end_s=10)))
    assert [(bar.left, bar.width) for bar in figure.bars] == [(0, 40), (20, 80)]
    assert [tick.label for tick in figure.ticks] == ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s"]


def test_precision_and_recall_are_placed_by_name() -> None:
    figure = precision_recall(make_report().scores)
    assert figure is not None
    assert (figure.x, figure.y) == pytest.approx((55, 71))
    assert (figure.x_error, figure.y_error) == pytest.approx((3, 2))
    assert precision_recall((make_score("precision", 0.5),)) is None


def test_ticks_are_round_and_few() -> None:
    assert linear_ticks(0.0, 15.0) == pytest.approx([0, 5, 10, 15])
    assert linear_ticks(0.0113, 0.0147) == pytest.approx([0.012, 0.013, 0.014])
    assert log_ticks(0.0004, 30.0) == pytest.approx([0.001, 0.01, 0.1, 1, 10])
