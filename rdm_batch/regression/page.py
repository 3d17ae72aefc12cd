"""From a history to its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rdm_batch.errors import RegressionError
from rdm_batch.regression.history import Contents
from rdm_batch.regression.records import WORST_FIRST, Run, Verdict
from rdm_batch.regression.series import SPEED_RULE, Series, series_of
from rdm_batch.regression.statistics.steps import Step, StepRule
from rdm_batch.reports.nightly_page import (
    NightlyPage,
    ShownNight,
    ShownSeries,
    ShownStep,
    ShownVerdict,
    render_nightly,
)
from rdm_batch.reports.units import format_number

QUALITY_RULE = StepRule(least_change=0.0)
"""Scores repeat: whatever moves them is worth a mark."""


def history_page(contents: Contents, uri: str, suite: str | None = None) -> str:
    """Render the page of a history: tonight's verdicts, and every series with its steps.

    Args:
        contents: The history.
        uri: Where it is, as the page says.
        suite: Which suite's runs are shown; None means that of the latest run.

    Raises:
        RegressionError: There is no such run.
    """
    wanted = suite or (contents.runs[-1].suite if contents.runs else None)
    runs = [run for run in contents.runs if run.suite == wanted]
    if not runs:
        found = "holds no run" if suite is None else f"holds no run of the suite {suite}"
        raise RegressionError(uri, found, "one to show", "rdm-batch bench run adds one")
    last = runs[-1]
    ranked = sorted(last.verdicts, key=lambda verdict: WORST_FIRST.index(verdict.outcome))
    page = NightlyPage(
        suite=last.suite,
        nights=[
            ShownNight(run.id, run.started, _commit(run), run.outcome, run.machine_class)
            for run in runs
        ],
        verdicts=[
            ShownVerdict(v.outcome, v.job, v.gate, v.figure or "", v.reason, v.decides)
            for v in ranked
        ],
        series=sorted(_all_series(runs, last), key=lambda shown: not shown.decides),
        warnings=[*contents.unread, *contents.backwards],
        history=uri,
    )
    return render_nightly(page)


def _all_series(runs: Sequence[Run], last: Run) -> Iterator[ShownSeries]:
    """Give the series of tonight's class of machine, then those of the others."""
    classes = dict.fromkeys([last.machine_class, *(run.machine_class for run in reversed(runs))])
    for machine_class in classes:
        speeds = series_of(runs, machine_class, SPEED_RULE)
        scores = series_of(runs, machine_class, QUALITY_RULE)
        for key, speed in speeds.items():
            chosen = scores[key] if speed.figure.kind == "quality" else speed
            yield _shown(chosen, last)


def _shown(series: Series, last: Run) -> ShownSeries:
    figure, ratios = series.figure, series.ratios
    verdict = _verdict_on(series, last)
    return ShownSeries(
        job=figure.job,
        name=figure.name,
        unit=figure.unit,
        better=figure.better,
        started=[run.started for run in series.runs],
        values=series.values.tolist(),
        levels=[(level.first, level.last, level.value) for level in series.levels],
        steps=[_step(series, step) for step in series.steps],
        outcome="" if verdict is None else verdict.outcome,
        decides=verdict is not None and verdict.decides,
        machine_class=series.machine_class,
        ratios=[] if ratios is None else ratios.tolist(),
        labels=[
            f"{run.started:%Y-%m-%d} {_commit(run)}: {format_number(one.value, 4)} {one.unit}"
            for run, one in zip(series.runs, series.figures, strict=True)
        ],
        page=series.runs[-1].pages.get(figure.job),
    )


def _verdict_on(series: Series, last: Run) -> Verdict | None:
    if series.runs[-1].id != last.id:
        return None
    wanted = (series.figure.job, series.figure.name)
    found = [verdict for verdict in last.verdicts if (verdict.job, verdict.figure) == wanted]
    return min(found, key=lambda v: WORST_FIRST.index(v.outcome), default=None)


def _step(series: Series, step: Step) -> ShownStep:
    run, better = series.runs[step.at], series.figure.better
    return ShownStep(
        night=step.at,
        change=step.change,
        commits=series.between(step.at),
        started=run.started,
        noticed=series.runs[step.noticed].started,
        worse=None if better == "neither" else (step.change < 0) == (better == "higher"),
        page=run.pages.get(series.figure.job),
    )


def _commit(run: Run) -> str:
    return (run.commit or "unknown")[:12] + ("+" if run.dirty else "")
