from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdm_batch.errors import RegressionError
from rdm_batch.regression import speeds
from rdm_batch.regression.history import History
from rdm_batch.regression.interleave import TimedRun
from rdm_batch.regression.records import Figure, Verdict
from rdm_batch.regression.searches import TimedSearches
from rdm_batch.regression.speeds import (
    Turns,
    judge_speeds,
    middle_of,
    repeat_job,
    take_turns,
    with_repeats,
)
from rdm_batch.regression.suite import Suite, load_suite
from rdm_batch.reports.latency import summarize_latencies
from tests.regression.kit import (
    accept_night,
    make_figure,
    make_night,
    make_run,
    night,
    with_rate,
)
from tests.regression.test_suite import write_suite

RATE: dict[str, Any] = {"kind": "speed", "unit": "images/s", "better": "higher", "error": None}
BYTES: dict[str, Any] = {"kind": "memory", "unit": "B", "better": "lower", "error": None}


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return load_suite(write_suite(tmp_path, job={"gates": {"speed": {}}}))


def measured(rate: float, resident: float = 1e6) -> tuple[Figure, ...]:
    return (
        make_figure("images_per_s", rate, job="quick", **RATE),
        make_figure("retriever_bytes", resident, job="quick", **BYTES),
    )


def decided(verdicts: list[Verdict]) -> Verdict:
    (found,) = [verdict for verdict in verdicts if verdict.decides]
    return found


def test_two_checkouts_in_turn_decide_at_once(suite: Suite) -> None:
    tonight = make_run(night(0), figures=measured(10.0))
    sound = tuple(measured(10.0 + 0.01 * n) for n in range(6))
    slow = tuple(measured(9.0 + 0.01 * n) for n in range(6))
    for candidate, outcome in ((sound, "pass"), (slow, "fail")):
        verdicts = judge_speeds(suite, tonight, (), None, {"quick": Turns(sound, candidate)})
        assert decided(verdicts).outcome == outcome
        assert decided(verdicts).figure == "images_per_s"
        assert {verdict.figure for verdict in verdicts} == {"images_per_s", "retriever_bytes"}


@pytest.mark.parametrize(
    ("rate", "noise", "pairs", "outcome"),
    [
        (1.0, 0.001, 9, "pass"),
        (1.0, 0.0, 9, "pass"),
        (0.9, 0.001, 9, "fail"),
        (0.97, 0.05, 20, "undecided"),
    ],
)
def test_checkouts_are_run_until_they_decide(
    suite: Suite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rate: float,
    noise: float,
    pairs: int,
    outcome: str,
) -> None:
    before, random = tmp_path / "before", np.random.default_rng(0)
    (before / "rdm_batch").mkdir(parents=True)
    (before / "rdm_batch" / "__init__.py").touch()

    def timed(checkout: Path, job: Path, output: Path, *_: Any) -> TimedRun:
        value = 10 * np.exp(noise * random.standard_normal())
        return TimedRun(with_rate(value * (1 if checkout == before else rate)), 1 << 20, 3.0)

    monkeypatch.setattr(speeds, "run_timed", timed)
    turns = take_turns(suite, suite.jobs[0], before, "none", 20)
    assert (len(turns.baseline), len(turns.candidate), turns.looks) == (pairs, pairs, 3)
    tonight = make_run(night(0), figures=measured(1.0))
    said = decided(judge_speeds(suite, tonight, (), None, {"quick": turns}))
    assert said.outcome == outcome
    assert "98 % interval" in said.reason
    assert f"from {pairs} pairs in turn" in said.reason


def test_a_figure_of_zero_loses_no_night(suite: Suite) -> None:
    tonight = make_run(night(0), figures=measured(10.0, 0.0))
    runs = tuple(measured(10.0, 0.0) for _ in range(6))
    verdicts = judge_speeds(suite, tonight, (), None, {"quick": Turns(runs, runs)})
    assert decided(verdicts).outcome == "pass"
    (zero,) = [verdict for verdict in verdicts if verdict.figure == "retriever_bytes"]
    assert zero.outcome == "not_comparable"


def test_without_a_checkout_the_history_of_this_class_decides(suite: Suite, tmp_path: Path) -> None:
    earlier = [make_run(night(n), figures=measured(10.0 + 0.001 * n)) for n in range(20)]
    tonight = make_run(night(20), figures=measured(10.0))
    assert decided(judge_speeds(suite, tonight, earlier, None, {})).outcome == "pass"
    elsewhere = tonight.model_copy(update={"machine_class": "1 x NVIDIA H200"})
    assert decided(judge_speeds(suite, elsewhere, earlier, None, {})).outcome == "not_comparable"
    assert decided(judge_speeds(suite, tonight, (), None, {})).outcome == "no_baseline"
    # Nights of another suite are none of its history.
    others = [run.model_copy(update={"suite": "other"}) for run in earlier]
    assert decided(judge_speeds(suite, tonight, others, None, {})).outcome == "no_baseline"
    # An accepted step is not told again.
    steps = [make_run(night(n), figures=measured(20.0 if n < 10 else 10.0)) for n in range(20)]
    assert decided(judge_speeds(suite, tonight, steps, None, {})).outcome == "fail"
    history = History(str(tmp_path / "history"))
    accepted = accept_night(history, make_night(), job="quick", run=steps[15].id)
    assert decided(judge_speeds(suite, tonight, steps, accepted, {})).outcome == "pass"


def test_what_is_no_checkout_is_refused(suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(RegressionError, match="is no checkout that can be run"):
        take_turns(suite, suite.jobs[0], tmp_path, "none")
    with pytest.raises(RegressionError, match="6 pairs or more"):
        take_turns(suite, suite.jobs[0], tmp_path, "none", 5)


def test_of_repeats_the_middle_counts_and_all_are_kept() -> None:
    rates = [make_figure("images_per_s", value, **RATE) for value in (9.0, 11.0, 10.0)]
    times = [make_figure("cpu_s", value, **RATE | {"better": "lower"}) for value in (9.0, 8.0, 9.5)]
    middle = middle_of(rates)
    assert (middle.value, middle.values) == (10.0, (9.0, 11.0, 10.0))
    assert middle_of(times).value == 9.0
    # Measured more often is measured otherwise: the two are no figures of one series.
    assert len({middle_of(rates).series, middle_of(rates[:2]).series, rates[0].series}) == 3
    scored = [make_figure("images_per_s", 7.0, floor=20.0, **RATE), make_figure("fid", 3.0)]
    rate, fid, time = with_repeats(scored, [middle, middle_of(times)])
    assert (rate.value, rate.floor, rate.values) == (10.0, 20.0, middle.values)
    assert fid == scored[1]
    assert time.name == "cpu_s"


def test_a_job_is_repeated_in_processes_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = load_suite(
        write_suite(tmp_path, job={"gates": {"speed": {"primary": "cpu_s", "repeats": 3}}})
    )
    outputs: list[Path] = []

    def timed(checkout: Path, job: Path, output: Path, *_: Any) -> TimedRun:
        output.mkdir()
        outputs.append(output)
        assert (checkout / "rdm_batch").is_dir()
        return TimedRun(with_rate(float(len(outputs))), 1 << 20, 3.0 + len(outputs))

    monkeypatch.setattr(speeds, "run_timed", timed)
    found = {figure.name: figure for figure in repeat_job(suite, suite.jobs[0], "none")}
    assert found["images_per_s"].values == (1.0, 2.0, 3.0)
    assert found["images_per_s"].value == 2.0
    assert (found["cpu_s"].value, found["cpu_s"].values) == (5.0, (4.0, 5.0, 6.0))
    assert not any(output.exists() for output in outputs)
    # What Ray's processes take this one cannot tell.
    assert "cpu_s" not in {figure.name for figure in repeat_job(suite, suite.jobs[0], "local")}


def test_searches_alone_are_judged_in_place_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = {"primary": "search_p99_s", "searches": 1000, "repeats": 3}
    suite = load_suite(write_suite(tmp_path, job={"gates": {"identity": False, "speed": gate}}))
    asked: list[int] = []

    def timed(checkout: Path, job: Path, output: Path, overrides: Any, count: int) -> TimedSearches:
        asked.append(count)
        seconds = np.full(count, 0.001)
        seconds[-20:] = 0.001 * (1 + len(asked))
        return TimedSearches(identity="a" * 64, latency=summarize_latencies(seconds))

    monkeypatch.setattr(speeds, "run_searches", timed)
    found = {figure.name: figure for figure in repeat_job(suite, suite.jobs[0], "local")}
    assert asked == [1000] * 3
    assert set(found) == {"search_p50_s", "search_p95_s", "search_p99_s"}
    assert found["search_p99_s"].values == pytest.approx((0.002, 0.003, 0.004))
    assert found["search_p99_s"].value == pytest.approx(0.003)
    tonight = make_run(night(0), figures=(*measured(10.0), *found.values()))
    verdicts = judge_speeds(suite, tonight, (), None, {})
    assert {(v.figure, v.decides) for v in verdicts} == {
        ("search_p99_s", True),
        ("search_p50_s", False),
        ("search_p95_s", False),
    }
    # Of more searches the p99 is another one.
    gates = {"identity": False, "speed": gate | {"searches": 2000}}
    other = load_suite(write_suite(tmp_path, job={"gates": gates}))
    more = {figure.name: figure for figure in repeat_job(other, other.jobs[0], "local")}
    assert more["search_p99_s"].description != found["search_p99_s"].description
