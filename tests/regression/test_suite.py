from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rdm_batch.cli import main
from rdm_batch.errors import InvalidJobError, RegressionError, SpecError
from rdm_batch.regression.accept import accept
from rdm_batch.regression.baseline import Baseline, load_baseline, save_baseline
from rdm_batch.regression.history import History
from rdm_batch.regression.nightly import start_run
from rdm_batch.regression.suite import Suite, load_suite
from tests.regression.kit import MACHINE, accept_night, make_night, make_run, night

JOBS = Path(__file__).parents[2] / "jobs"


def write_suite(folder: Path, **changes: Any) -> Path:
    job = {"name": "quick", "job": str(JOBS / "quickstart.yaml")}
    document = {
        "kind": "suite",
        "name": "nightly",
        "baseline": "baseline.yaml",
        "output": str(folder / "out"),
        "jobs": [job | changes.pop("job", {})],
    }
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(document | changes))
    return path


def problems_of(path: Path) -> str:
    with pytest.raises((InvalidJobError, SpecError)) as caught:
        load_suite(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("gates", "says"),
    [
        ({"identity": False}, "no gate is set; a job without gates can only pass"),
        ({"paired": {"primary": "fid", "delta": {"kid": 0.1}}}, "for which delta gives nothing"),
        ({"paired": {"primary": "fid", "delta": {"fid": 0}}}, "greater than 0"),
        ({"paired": {"primary": "fod", "delta": {"fod": 1.0}}}, "'fod', which is no score"),
        ({"bounds": ["fod"]}, "'fod', which is no score"),
        ({"bounds": ["kid"]}, "kid is judged, and the job does not compute it"),
        ({"speed": {"primary": "images"}}, "none of the figures of speed"),
        (
            {"speed": {"primary": "cpu_s", "repeats": 1}},
            "cpu_s is that of a process of its own: repeats is 1",
        ),
        ({"speed": {"primary": "search_p99_s"}}, "none of the figures of speed without searches"),
        ({"speed": {"searches": 2_000}}, "none of the figures of speed with searches: search_p50"),
        (
            {"speed": {"primary": "search_p99_s", "searches": 999}},
            "greater than or equal to 1000",
        ),
        ({"speed": {"repeats": 0}}, "greater than or equal to 1"),
        ({"closeness": [{"name": "a", "largest_byte": 1, "mean_byte": 1}]}, "neither versions nor"),
        (
            {
                "closeness": [
                    {"name": "a", "fields": ["model.percision"], "largest_byte": 1, "mean_byte": 1}
                ]
            },
            "model.percision is no field of the job; needed the dotted name of one; did you mean "
            "model.precision?",
        ),
    ],
)
def test_gates_that_make_no_sense_are_refused(
    tmp_path: Path, gates: dict[str, Any], says: str
) -> None:
    assert says in problems_of(write_suite(tmp_path, job={"gates": gates}))


def test_suites_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    twice = [{"name": "a", "job": "x.yaml"}] * 2
    assert "two jobs are called 'a'" in problems_of(write_suite(tmp_path, jobs=twice))
    assert "jobs" in problems_of(write_suite(tmp_path, jobs=[]))
    assert "is no suite" in problems_of(JOBS / "quickstart.yaml")
    missing = write_suite(tmp_path, job={"job": "nowhere.yaml"})
    assert "job quick: " in problems_of(missing)
    assert "there is no such file" in problems_of(missing)
    wrong = write_suite(tmp_path, job={"overrides": ["sampling.eta=7"]})
    assert "job quick: sampling.eta" in problems_of(wrong)


def test_the_digest_of_a_suite_is_of_its_jobs_and_gates(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path))
    elsewhere = load_suite(write_suite(tmp_path, output=str(tmp_path / "other")))
    assert suite.digest == elsewhere.digest
    fewer = load_suite(write_suite(tmp_path, job={"overrides": ["sampling.num_samples=64"]}))
    assert suite.digest != fewer.digest


@pytest.mark.parametrize("name", ["nightly.yaml", "nightly_in256.yaml"])
def test_shipped_suites_can_be_read(name: str) -> None:
    assert load_suite(JOBS / name).jobs


def test_a_dry_run_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "run", str(write_suite(tmp_path)), "--dry-run"]) == 0
    assert "ready to run, 1 jobs" in capsys.readouterr().out
    lacking = write_suite(tmp_path, job={"overrides": ["database.uri=nowhere"]})
    assert main(["bench", "run", str(lacking), "--dry-run"]) == 3
    assert "not ready to run, 1 problem" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "SUITE"], "--history: is missing"),
        (["run", "SUITE", "--history", "HISTORY", "--seeds", "2"], "--seeds: 2; needed 1, or at"),
        (["history", "HISTORY", "--job", "quick"], "--job and --figure: one of them is missing"),
        (["history", "HISTORY", "--job", "a", "--figure", "b"], "no run has a figure 'b'"),
        (["accept", "SUITE", "--history", "HISTORY", "--reason", " "], "--reason: says nothing"),
        (["accept", "SUITE", "--history", "HISTORY", "--reason", "yes"], "holds no run"),
    ],
)
def test_wrong_commands_are_one_clear_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    places = {"SUITE": str(write_suite(tmp_path)), "HISTORY": str(tmp_path / "history")}
    assert main(["bench", *(places.get(word, word) for word in arguments)]) == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def _accepting(folder: Path) -> tuple[Suite, History]:
    """Give a suite whose history has a run with a candidate for its job."""
    suite, history = load_suite(write_suite(folder)), History(str(folder / "history"))
    (candidate,) = accept_night(history, make_night()).accepted
    run = make_run(night(1))
    candidate = candidate.model_copy(update={"job": "quick", "run": run.id, "reason": "not yet"})
    key = history.keep(run.id, "quick.candidate.json", candidate.model_dump_json().encode())
    history.append(run.model_copy(update={"artifacts": {"quick.candidate.json": key}}))
    return suite, history


def test_accepting_writes_a_file_that_can_be_reviewed(tmp_path: Path) -> None:
    suite, history = _accepting(tmp_path)
    baseline, (new,) = accept(suite, history, "latest", "the first night")
    assert new.reason == "the first night"
    assert load_baseline(suite.baseline, "nightly") == baseline
    text = suite.baseline.read_text()
    assert text.startswith("# What `rdm-batch bench accept` has accepted; review it like code")
    assert "reason: the first night" in text
    # The same again changes nothing; nothing in the history has changed.
    before = {path: path.read_bytes() for path in (tmp_path / "history").rglob("*.parquet")}
    accept(suite, history, new.run, "the first night")
    assert suite.baseline.read_text() == text
    assert {p: p.read_bytes() for p in (tmp_path / "history").rglob("*.parquet")} == before


def test_accepting_keeps_bounds_and_other_machines(tmp_path: Path) -> None:
    suite, history = _accepting(tmp_path)
    (with_bounds,) = accept_night(history, make_night()).accepted
    mine = with_bounds.model_copy(update={"job": "quick"})
    other = mine.model_copy(update={"machine_class": "1 x NVIDIA H200"})
    save_baseline(suite.baseline, Baseline(suite="nightly", accepted=(mine, other)))
    baseline, _ = accept(suite, history, "latest", "anew", ["quick"])
    assert {one.machine_class for one in baseline.accepted} == {
        "1 x NVIDIA H200",
        "2 x Example CPU",
    }
    found = baseline.find("quick", "2 x Example CPU")
    assert found is not None
    assert found.bounds == with_bounds.bounds
    assert found.reason == "anew"


def test_what_did_not_finish_is_not_accepted(tmp_path: Path) -> None:
    suite, history = load_suite(write_suite(tmp_path)), History(str(tmp_path / "history"))
    run = history.append(make_run())
    with pytest.raises(RegressionError, match=f"run {run.id}: has not finished the job quick"):
        accept(suite, history, "latest", "a reason")
    with pytest.raises(RegressionError, match=r"quik is no job of the suite.*did you mean quick"):
        accept(suite, history, "latest", "a reason", ["quik"])
    with pytest.raises(RegressionError, match="holds no run '2020'"):
        accept(suite, history, "2020", "a reason")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("format: rdm_batch.baseline/9\n", "is of the format 'rdm_batch.baseline/9'"),
        ("- a list\n", "is of the format None"),
        ("format: rdm_batch.baseline/1\nsuite: other\n", "accepted for the suite 'other'"),
        ("format: rdm_batch.baseline/1\nsuite: nightly\naccepted: 3\n", "is damaged"),
    ],
)
def test_a_baseline_of_something_else_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "baseline.yaml"
    path.write_text(text)
    with pytest.raises(RegressionError, match=says):
        load_baseline(path, "nightly")


def test_a_history_is_listed_with_what_is_wrong_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = History(str(tmp_path))
    for number in (0, 3, 1):
        history.append(make_run(night(number), machine=MACHINE))
    (tmp_path / "runs" / "torn.parquet").write_bytes(b"PAR1")
    assert main(["bench", "history", str(tmp_path)]) == 0
    out = "".join(capsys.readouterr().out.split())  # however lines are broken
    assert out.count("nobaseline") == 3
    assert "torn.parquet:istornordamaged" in out
    assert "oneoftheclocksiswrong" in out
    assert main(["bench", "history", str(tmp_path), "--job", "shapes", "--figure", "fid"]) == 0
    assert "10.00" in capsys.readouterr().out


def test_a_clock_behind_the_last_run_is_told_before_work(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    history.append(make_run(night(365 * 200)))
    _, notes = start_run(history, Baseline(suite="nightly"))
    (note,) = notes
    assert "one of the clocks is wrong; runs keep the order they are stored in" in note
    _, notes = start_run(History(str(tmp_path / "new")), None)
    assert notes == ("nothing was accepted yet: this run can only be the first to be accepted",)
