"""Gate 4: speed, latency, memory and bytes, against a checkout beside it or against the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rdm_batch.errors import RegressionError
from rdm_batch.regression.records import Figure, Outcome, Run, RunId, Verdict
from rdm_batch.regression.series import SPEED_RULE, Series, series_of
from rdm_batch.regression.statistics.ratios import (
    LEAST_PAIRS,
    judge_ratio,
    pairs_that_decide,
    ratio_of_pairs,
)
from rdm_batch.regression.statistics.steps import StepRule, find_steps, levels
from rdm_batch.reports.units import format_count, format_number

TOLERANCE = 0.03
"""By how much a speed may fall unless a suite says otherwise."""


@dataclass(frozen=True)
class _About:
    """Name what verdicts are about."""

    job: str
    figure: str
    decides: bool

    def say(self, outcome: Outcome, reason: str, **details: float | int | str) -> Verdict:
        return Verdict(
            gate="speed",
            job=self.job,
            figure=self.figure,
            outcome=outcome,
            reason=reason,
            details={**details},
            decides=self.decides,
        )


def judge_pairs(
    baseline: Sequence[Figure],
    candidate: Sequence[Figure],
    tolerance: float = TOLERANCE,
    decides: bool = True,
    looks: int = 1,
) -> Verdict:
    """Compare one figure of two checkouts that were run in turn on one machine.

    Args:
        baseline: Of the runs of the accepted checkout, in order.
        candidate: Of the runs beside them.
        tolerance: Part by which it may be worse.
        decides: Whether the figure takes part in the outcome of the run.
        looks: How often pairs are asked whether they decide; each look has its share of 5 %.

    Raises:
        RegressionError: There are too few pairs, or they measured different things.
    """
    first = candidate[0] if candidate else None
    if first is None or len(baseline) != len(candidate) or len(candidate) < LEAST_PAIRS:
        raise RegressionError(
            "speed of two checkouts",
            f"{len(baseline)} runs of the one and {len(candidate)} of the other",
            f"{LEAST_PAIRS} pairs or more",
        )
    if any((f.job, f.name, f.unit) != (first.job, first.name, first.unit) for f in baseline):
        found = f"{baseline[0].name} of {baseline[0].job} beside {first.name} of {first.job}"
        raise RegressionError("speed of two checkouts", found, "one figure of one job")
    ratio = ratio_of_pairs(
        np.array([figure.value for figure in baseline]),
        np.array([figure.value for figure in candidate]),
        looks,
    )
    better = _direction(first)
    outcome = judge_ratio(ratio, tolerance, better)
    reason = (
        f"{first.name} is {ratio.value:.3f} of the baseline's, {100 * ratio.confidence:.0f} % "
        f"interval {ratio.low:.3f} to {ratio.high:.3f} from {ratio.pairs} pairs in turn; "
        f"{tolerance:.0%} {_worse(better)} is tolerated"
    )
    details: dict[str, float | int] = {
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "pairs": ratio.pairs,
    }
    if outcome == "undecided":
        needed = pairs_that_decide(ratio, tolerance, better)
        reason += f"; undecided, needs about {needed} pairs"
        details["needed"] = needed
    return _About(first.job, first.name, decides).say(outcome, reason, **details)


def judge_history(
    tonight: Run,
    earlier: Sequence[Run],
    job: str,
    name: str,
    accepted: RunId | None = None,
    tolerance: float = TOLERANCE,
    decides: bool = True,
) -> Verdict:
    """Look for steps for the worse in the history of this class of machine.

    The level that tonight belongs to is held against that of the accepted night, so that several
    small steps add up, and a step that was accepted is not told again. A figure whose floor has
    moved along is undecided: then the machine has changed, and nothing is known of the program.

    Args:
        tonight: The run that is judged.
        earlier: The runs before it, in order.
        job: Whose figure.
        name: Which.
        accepted: The night that was accepted; None holds against the first one.
        tolerance: Part by which the level may be worse.
        decides: Whether the figure takes part in the outcome of the run.
    """
    figure, say = tonight.figure(job, name), _About(job, name, decides).say
    if figure is None:
        return say("not_comparable", f"{name} was not measured tonight")
    others = [run for run in earlier if run.figure(job, name) is not None]
    rule = rule_for(tolerance)
    series = series_of([*earlier, tonight], tonight.machine_class, rule)[job, name]
    known = len(series.figures) - 1
    if not known:
        return say(*_without_history(tonight, figure, others))
    if not series.has_steps:
        return say("not_comparable", f"{name} has values of 0 or less, of which there is no ratio")
    start = next((i for i, run in enumerate(series.runs) if run.id == accepted), 0)
    least = rule.least_before + rule.least_after
    if len(series.figures) < least:
        missing = least - len(series.figures)
        reason = f"{name} has {known} nights before this one; undecided, needs {missing} more"
        return say("undecided", reason, nights=known, needed=missing)
    before, now = series.level_at(start), series.level_at(known)
    better, change = _direction(figure), now / before - 1
    shown = f"{name} is at {format_number(now)} {figure.unit}".rstrip()
    shown += f", {_percent(change)} from the {'accepted' if accepted else 'first'} level"
    if change == 0 or not _is_worse(change, better, tolerance):
        steps = [step for step in series.steps if step.at > start]
        said = "no step since, within"
        if steps:
            said = f"{format_count(len(steps), 'step')} since, within"
        reason = f"{shown}: {said} {tolerance:.0%}"
        return say("pass", reason, level=now, before=before, nights=known)
    worst = _largest_for_the_worse(series, start, better)
    step = series.steps[worst]
    reason = f"{shown}: a step of {_percent(step.change)} {series.between(step.at)}"
    details: dict[str, float | int | str] = {
        "level": now,
        "before": before,
        "nights": known,
        "step_run": series.runs[step.at].id,
        "step_commit": series.runs[step.at].commit or "",
        "noticed_run": series.runs[step.noticed].id,
    }
    relative = _change_over_floor(series, start)
    if relative is not None and not _is_worse(relative, better, tolerance):
        reason += (
            f"; over the floor measured beside it, it has changed by {_percent(relative)}: "
            "undecided, for the machine itself has changed"
        )
        return say("undecided", reason, **details, over_floor=relative)
    return say("fail", reason, **details)


def rule_for(tolerance: float) -> StepRule:
    """Give the rule for a figure of which so much is tolerated: half of it is a step already.

    Two such steps together are more than is tolerated.
    """
    return replace(SPEED_RULE, least_change=tolerance / 2)


def _without_history(tonight: Run, figure: Figure, others: Sequence[Run]) -> tuple[Outcome, str]:
    of_class = [run for run in others if run.machine_class == tonight.machine_class]
    if of_class:
        times = format_count(len(of_class), "time")
        return "not_comparable", f"{figure.name} was measured {times} before, of something else"
    if others:
        reason = f"{figure.name} was measured on {others[-1].machine_class} before, and tonight on "
        return "not_comparable", reason + tonight.machine_class
    return "no_baseline", f"{figure.name} has not been measured before tonight"


def _direction(figure: Figure) -> Literal["lower", "higher"]:
    if figure.better == "neither":
        raise RegressionError(
            f"{figure.name} of {figure.job}",
            "is neither better when higher nor when lower",
            "a figure with a direction",
            "name another one in the suite",
        )
    return figure.better


def _is_worse(change: float, better: Literal["lower", "higher"], tolerance: float) -> bool:
    return change < -tolerance if better == "higher" else change > tolerance


def _worse(better: Literal["lower", "higher"]) -> str:
    return "less" if better == "higher" else "more"


def _largest_for_the_worse(series: Series, start: int, better: Literal["lower", "higher"]) -> int:
    sign = -1 if better == "higher" else 1
    found = [number for number, step in enumerate(series.steps) if step.at > start]
    return max(found, key=lambda number: sign * series.steps[number].change)


def _change_over_floor(series: Series, start: int) -> float | None:
    """Give the change of the level of the ratio to the floor; None without floors."""
    ratios = series.ratios
    if ratios is None:
        return None
    found = levels(ratios, find_steps(ratios, series.rule))
    before = next(level.value for level in found if level.first <= start <= level.last)
    return found[-1].value / before - 1


def _percent(change: float) -> str:
    return f"{change:+.1%}"
