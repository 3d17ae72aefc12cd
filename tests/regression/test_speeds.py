from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rdm_batch.errors import RegressionError
from rdm_batch.regression.history import History
from rdm_batch.regression.records import Figure, Verdict
from rdm_batch.regression.speeds import Turns, judge_speeds, take_turns
from rdm_batch.regression.suite import Suite, load_suite
from tests.regression.kit import accept_night, make_figure, make_night, make_run, night
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
