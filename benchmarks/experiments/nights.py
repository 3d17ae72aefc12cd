"""Simulate nights from measured repeats: what the speed gate tells, and what it tells wrongly.

    python -m benchmarks.experiments.nights --json benchmarks/results/nights.json

Inputs: the parts of the record that ``benchmarks.experiments.repeats`` has measured, one for each
time of the day it ran. A simulated night measures a job ``--repeats`` times and keeps the mean of
the middle half, as a suite does with ``repeats``; what other numbers of them, their median and the
best of them would do stands beside it. The noise of a repeat is drawn from the measured deviations
from the middle of their part, blurred by a fraction of their spread so that a year is not made of
twenty numbers; to it comes what all repeats of a night have in common, normal with the spread
measured between the parts (``benchmarks.experiments.noise``). The gate itself judges every night
(``regression.speed.judge_history``), with the tolerances of ``FIGURES``.

With ``--choose`` numbers of repeats are compared, for nights that are all alike: what lies between
the parts is left out, for no number of repeats takes it away.

The part ``checkouts in turn`` is the gate with ``--against``, of at most so many pairs: what nights
have in common is then in both sides of a pair and cancels, and each night decides by itself.

With ``--assumed`` nothing measured is needed: nights have noise of several sizes, normal or with
the tails of Student's t of 3 degrees, and the rows say how quiet nights have to be for the gate to
find what is planted. They say nothing of how quiet nights are.

The part ``paired gate`` needs no noise: it computes how often gate 2 passes differences whose true
value is just the margin, or none; at the margin it errs by its level.

Eight jobs whose deciding figures are ``JOBS``. Changes are planted after 30 to 90 quiet nights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from benchmarks.experiments.noise import (
    FIGURES,
    KEPT,
    Assumed,
    Measured,
    Noise,
    load_of,
    measured_noise,
    noise_rows,
    part_rows,
)
from benchmarks.experiments.repeats import recorder_of
from benchmarks.recorder import parser_of, run
from benchmarks.records import Details, Row
from rdm_batch.regression.records import Figure, Run
from rdm_batch.regression.series import SPEED_RULE
from rdm_batch.regression.speed import judge_history, rule_for
from rdm_batch.regression.statistics.equivalence import ALPHA, Outcome
from rdm_batch.regression.statistics.power import equivalence_power
from rdm_batch.regression.statistics.ratios import judge_ratio, looks_of, ratio_of_pairs
from rdm_batch.regression.statistics.steps import find_steps
from rdm_batch.reports.run_report import Machine

YEAR = 365
JOBS = ("images/s",) * 4 + ("pipeline images/s", "start-up", "p99 of searches alone", "peak memory")
PLANTED = {
    "throughput 5 % down": ("images/s", 0.95),
    "processor time 5 % up": ("CPU time", 1.05),
    "p99 20 % up": ("p99 of searches alone", 1.2),
    "memory 10 % up": ("peak memory", 1.1),
}
WITHIN, LATER = 3, 10
COUNTS = (5, 9, 15, 25, 35)
"""Of repeats a night."""
PAIRS = (9, 20, 40, 80)
ASSUMED = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05)
NEEDED_CAUGHT, NEEDED_PLACED = 0.95, 0.9
MOST_FALSE_ALARMS, NEEDED_QUIET = 2, 0.95
NEEDED_NOT_PASSED = 0.99
_MACHINE = Machine(cpu_model="simulated", num_cores=1, memory_bytes=1 << 30)
_DESCRIPTION = "0" * 64
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def as_run(number: int, figure: Measured, value: float) -> Run:
    """Make the run of a night that measured one figure of one job."""
    started = _FIRST + timedelta(days=number)
    measured = Figure(
        name=figure.name,
        job="job",
        kind=figure.kind,
        value=value,
        better=figure.better,
        description=_DESCRIPTION,
    )
    return Run(
        id=f"{started:%Y%m%dT%H%M%SZ}-{number:08x}",
        position=number,
        started=started,
        commit=f"{number:040x}",
        dirty=False,
        versions={},
        machine=_MACHINE,
        machine_class="simulated",
        suite="simulated",
        suite_digest=_DESCRIPTION,
        figures=(measured,),
    )


def nights_that_fail(values: Float64[np.ndarray, " nights"], figure: Measured) -> list[int]:
    """Give the nights on which the verdict of the gate turns to fail.

    It is asked where it can turn: on the nights that tell of a step.
    """
    runs = [as_run(number, figure, float(value)) for number, value in enumerate(values)]
    steps = find_steps(values, rule_for(figure.tolerance))
    turned, failing = [], False
    for night in (step.noticed for step in steps):
        verdict = judge_history(
            runs[night], runs[:night], "job", figure.name, tolerance=figure.tolerance
        )
        if verdict.outcome == "fail" and not failing:
            turned.append(night)
        failing = verdict.outcome == "fail"
    return turned


def false_alarms(noise: Mapping[str, Noise | Assumed], repeats: int, seed: int) -> tuple[int, int]:
    """Judge a year of unchanged nights of all jobs.

    Returns:
        How often a job began to fail, and how many steps of either direction the page would mark.
    """
    random = np.random.default_rng([seed, 1])
    alarms = marks = 0
    for job in JOBS:
        values, figure = noise[job].nights(YEAR, repeats, random), FIGURES[job]
        alarms += len(nights_that_fail(values, figure))
        marks += len(find_steps(values, SPEED_RULE))
    return alarms, marks


def planted(
    noise: Noise | Assumed, figure: Measured, factor: float, repeats: int, trials: int, seed: int
) -> dict[str, float]:
    """Plant a change again and again.

    Returns:
        Shares of the trials that failed by the third night, that had failed by the tenth, and in
        which the step was placed within a night of where it was; the middle delay in nights.
    """
    random = np.random.default_rng([seed, 2])
    caught = later = placed = 0
    delays: list[float] = []
    for _ in range(trials):
        quiet, after = int(random.integers(30, 91)), 14
        values = noise.nights(quiet + after, repeats, random)
        values[quiet:] *= factor
        told = [night - quiet + 1 for night in nights_that_fail(values, figure) if night >= quiet]
        delay = told[0] if told else np.inf
        caught += delay <= WITHIN
        later += delay <= LATER
        delays.append(delay)
        steps = find_steps(values, rule_for(figure.tolerance))
        placed += any(abs(step.at - quiet) <= 1 for step in steps if step.noticed >= quiet)
    return {
        "caught within 3 nights": caught / trials,
        "caught within 10 nights": later / trials,
        "placed within a night": placed / trials,
    } | _middle_delay(delays)


def _middle_delay(delays: list[float]) -> dict[str, float]:
    """Give the middle delay; nothing where most were never caught."""
    middle = float(np.median(delays))
    return {"middle delay, nights": middle} if np.isfinite(middle) else {}


def choice_rows(noise: Mapping[str, Noise], years: int, trials: int) -> Iterator[Row]:
    """Say what each number of repeats, and each way to make one of them, finds and mistakes."""
    for word in KEPT:
        kept = {name: replace(one, kept=word) for name, one in noise.items()}
        for count in COUNTS:
            alarms = [false_alarms(kept, count, seed)[0] for seed in range(years)]
            details: Details = {"false alarms a year, 8 jobs": float(np.mean(alarms))}
            for number, (name, (of, factor)) in enumerate(PLANTED.items()):
                found = planted(kept[of], FIGURES[of], factor, count, trials, number)
                details[f"{name}: caught within 3 nights"] = found["caught within 3 nights"]
            yield Row(name=f"{word} of {count}", details=details)


def paired_rows() -> list[Row]:
    """Say how often gate 2 does not pass what has moved by the margin, and passes what has not."""
    samples = 1_024
    rows = []
    for share in (0.1, 0.2):
        deviation = share * samples**0.5
        for alpha in (0.05, ALPHA):
            moved, further, still = (
                equivalence_power(deviation, samples, 1.0, shift, alpha)
                for shift in (1.0, 1.2, 0.0)
            )
            rows.append(
                Row(
                    name=f"error {share:.0%} of the margin, level {alpha:.0%}: moved by the margin",
                    value=1 - moved,
                    higher_is_better=True,
                    needed=NEEDED_NOT_PASSED if alpha == ALPHA else None,
                    details={
                        "moved by 1.2 margins, not passed": 1 - further,
                        "unmoved, passed": still,
                    },
                )
            )
    return rows


def turn_rows(noise: Mapping[str, Noise], trials: int) -> Iterator[Row]:
    """Say what the gate does with another checkout, by how many pairs are taken at most."""
    for most in PAIRS:
        details: Details = {}
        for number, (name, (of, factor)) in enumerate(PLANTED.items()):
            random = np.random.default_rng([number, most])
            for what, changed in ((name, factor), (f"{of} unmoved", 1.0)):
                found = [
                    _turns(noise[of], FIGURES[of], changed, most, random) for _ in range(trials)
                ]
                outcomes = [outcome for outcome, _ in found]
                for outcome in ("fail", "pass"):
                    details[f"{what}: {outcome}"] = outcomes.count(outcome) / trials
                details[f"{what}: pairs"] = float(np.mean([pairs for _, pairs in found]))
        yield Row(name=f"at most {most} pairs", details=details)


def _turns(
    noise: Noise, figure: Measured, factor: float, most: int, random: np.random.Generator
) -> tuple[Outcome, int]:
    """Take turns until a look decides; give the verdict, and how many pairs it took."""
    before, after = (noise.runs(most, random) for _ in "AB")
    looks = looks_of(most)
    for pairs in looks:
        ratio = ratio_of_pairs(before[:pairs], factor * after[:pairs], len(looks))
        outcome = judge_ratio(ratio, figure.tolerance, figure.better)
        if outcome != "undecided":
            return outcome, pairs
    return "undecided", most


def assumed_rows(heavy: bool, years: int, trials: int) -> Iterator[Row]:
    """Say what the gate does with nights of several sizes of noise."""
    for spread in ASSUMED:
        noise = Assumed(spread, heavy)
        alarms = [false_alarms(dict.fromkeys(FIGURES, noise), 1, seed)[0] for seed in range(years)]
        details: Details = {"false alarms a year, 8 jobs": float(np.mean(alarms))}
        details["most in one year"] = max(alarms)
        for name, (of, factor) in PLANTED.items():
            found = planted(noise, FIGURES[of], factor, 1, trials, 0)
            details[f"{name}: caught within 3 nights"] = found["caught within 3 nights"]
            details[f"{name}: placed within a night"] = found["placed within a night"]
        yield Row(name=f"noise of a night {spread:.1%}", details=details)


def main(argv: list[str] | None = None) -> None:
    """Simulate years and planted changes."""
    parser = parser_of(__doc__)
    parser.add_argument("--noise", type=Path, help="record with the repeats (default: --json)")
    parser.add_argument("--repeats", type=int, default=25, help="runs of a job in one night")
    parser.add_argument("--years", type=int, default=20)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--assumed", action="store_true", help="assume noise of several sizes")
    parser.add_argument("--choose", action="store_true", help="compare numbers of repeats")
    args = parser.parse_args(argv)
    if args.assumed:
        recorder = recorder_of(args.json)
        for heavy, name in ((False, "assumed noise: normal"), (True, "assumed noise: Student's t")):
            settings = {
                "years": args.years,
                "trials": args.trials,
                "threshold": SPEED_RULE.threshold,
            }
            for row in assumed_rows(heavy, args.years, args.trials):
                recorder.add(name, [row], settings)
        recorder.add("paired gate", paired_rows())
        return
    path = args.noise or args.json
    if path is None:
        parser.error("one of --noise and --json is needed")
    noise = measured_noise(path)
    if args.choose:
        noise = {name: replace(one, between=0.0) for name, one in noise.items()}
        recorder = recorder_of(args.json)
        settings = {"years": args.years, "trials": args.trials}
        for row in choice_rows(noise, args.years, args.trials):
            recorder.add("numbers of repeats", [row], settings, [load_of(path)])
        for row in turn_rows(noise, args.trials):
            recorder.add("checkouts in turn", [row], {"trials": args.trials}, [load_of(path)])
        return
    recorder = recorder_of(args.json)
    settings = {
        "repeats a night": args.repeats,
        "threshold": SPEED_RULE.threshold,
        "jobs": list(JOBS),
    }
    notes = [load_of(path)]
    recorder.add("times of the day", part_rows(path))
    recorder.add("noise", noise_rows(noise, args.repeats), settings, notes)
    years = np.array([false_alarms(noise, args.repeats, seed) for seed in range(args.years)])
    alarms = years[:, 0]
    recorder.add(
        "a year of unchanged nights, 8 jobs",
        [
            Row(
                name="share of years with at most 2 false alarms",
                value=float((alarms <= MOST_FALSE_ALARMS).mean()),
                higher_is_better=True,
                needed=NEEDED_QUIET,
                details={
                    "years": args.years,
                    "false alarms a year": float(alarms.mean()),
                    "most in one year": int(alarms.max()),
                    "steps marked a year": float(years[:, 1].mean()),
                },
            )
        ],
        settings,
        notes,
    )
    rows = []
    for number, (name, (of, factor)) in enumerate(PLANTED.items()):
        found = planted(noise[of], FIGURES[of], factor, args.repeats, args.trials, number)
        rows += [
            Row(
                name=f"{name}: {what}",
                value=found[what],
                higher_is_better=True,
                needed=needed,
                details={"trials": args.trials} | {k: found[k] for k in also if k in found},
            )
            for what, needed, also in (
                (
                    "caught within 3 nights",
                    NEEDED_CAUGHT,
                    ("caught within 10 nights", "middle delay, nights"),
                ),
                ("placed within a night", NEEDED_PLACED, ()),
            )
        ]
    recorder.add("planted changes", rows, settings, notes)
    recorder.add("paired gate", paired_rows())


if __name__ == "__main__":
    run(main)
