from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import compare, recorder
from benchmarks.recorder import Recorder
from benchmarks.records import Record, Row, read_record
from rdm_batch.errors import RdmBatchError
from rdm_batch.reports.run_report import Machine

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
OTHER = Machine(cpu_model="another", num_cores=64, memory_bytes=2**40)


def record_of(path: Path) -> Record:
    record = read_record(path)
    assert record is not None
    return record


def recording(path: Path | None, benchmark: str = "one") -> Recorder:
    return Recorder(benchmark, "One", "What is measured.", path, "the other way")


def test_better_is_above_one_for_times_and_for_rates() -> None:
    time = Row(name="a", value=2.0, baseline=6.0, floor=1.0, needed=3.0, needed_ratio=2.9)
    assert (time.ratio, time.gap, time.met) == (3.0, 2.0, True)
    rate = Row(name="b", value=2.0, higher_is_better=True, baseline=6.0, floor=8.0, needed=1.5)
    assert (rate.ratio, rate.gap, rate.met) == (pytest.approx(1 / 3), 4.0, True)
    assert Row(name="c", value=2.0, needed=1.9).met is False
    assert Row(name="d", value=2.0, baseline=6.0, needed_ratio=3.1).met is False
    nothing = Row(name="e")
    assert (nothing.ratio, nothing.gap, nothing.met) == (None, None, None)


def test_a_part_is_kept_with_its_conditions_and_shown_on_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new folder" / "one.json"
    row = Row(name="x", value=1234.5, unit="ms", baseline=2469, needed=1000, details={"MB": 0.25})
    recording(path).add("first", [row], {"batch": 8}, ["A note."])
    document = json.loads(path.read_text())
    assert document["machine"]["num_cores"] > 0
    (part,) = document["parts"]
    assert {"python", "torch"} <= part["software"].keys()
    assert part["command"]
    assert part["measured"]
    assert (part["rows"][0]["ratio"], part["rows"][0]["met"]) == (2.0, False)
    page = path.with_suffix(".md").read_text()
    assert "Ratio: times better than the other way; above 1 is better." in page
    assert "batch: 8" in page
    assert "| what | measured | baseline | ratio | needed | MB |" in page
    line = "| x | 1,234 ms | 2,469 ms | 2.00 | 1,000 ms or less: **missed** | 0.25 |"
    assert line in page
    assert line in capsys.readouterr().out
    assert "A note." in page
    assert not list(path.parent.glob(".*"))


def test_a_part_measured_again_takes_the_place_of_its_former_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    first = recording(path)
    first.add("a", [Row(name="old", value=1.0)])
    first.add("b", [Row(name="kept", value=1.0)])
    second = recording(path)
    second.add("a", [Row(name="new", value=2.0)])
    second.add("a", [Row(name="more", value=3.0)])
    rows = {part.name: [row.name for row in part.rows] for part in record_of(path).parts}
    assert rows == {"b": ["kept"], "a": ["new", "more"]}


def test_figures_of_another_machine_are_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.json"
    recording(path).add("a", [Row(name="x", value=1.0)])
    before = path.read_bytes()
    monkeypatch.setattr(recorder, "describe_machine", lambda: OTHER)
    with pytest.raises(RdmBatchError, match="one machine in a comparison; the other is another"):
        recording(path)
    assert path.read_bytes() == before


def test_a_machine_with_a_little_other_memory_or_kernel_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.json"
    recording(path).add("a", [Row(name="x", value=1.0)])
    machine = recorder.describe_machine()
    again = machine.model_copy(update={"memory_bytes": 1, "platform": "a new kernel"})
    monkeypatch.setattr(recorder, "describe_machine", lambda: again)
    recording(path).add("b", [Row(name="y", value=1.0)])
    assert [part.name for part in record_of(path).parts] == ["a", "b"]


def test_results_of_another_benchmark_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    recording(path).add("a", [Row(name="x", value=1.0)])
    with pytest.raises(RdmBatchError, match="holds results of one; needed those of two"):
        recording(path, "two")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text("{")
    with pytest.raises(RdmBatchError, match="cannot be read"):
        recording(path)


@pytest.mark.parametrize("name", sorted(path.name for path in RESULTS.glob("*.json")))
def test_results_in_the_repository_are_of_this_form_or_set_aside_whole(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes((RESULTS / name).read_bytes())
    page = path.with_suffix(".md")
    page.write_text("the page")
    if read_record(path) is not None:
        return
    found = recording(path)
    # Nothing is moved before there is something in its place.
    assert path.read_bytes() == (RESULTS / name).read_bytes()
    found.add("a", [Row(name="x", value=1.0)])
    assert [part.name for part in record_of(path).parts] == ["a"]
    earlier = path.with_name(f"{path.stem}.earlier.json")
    assert earlier.read_bytes() == (RESULTS / name).read_bytes()
    assert page.with_name(f"{path.stem}.earlier.md").read_text() == "the page"


def test_records_before_and_after_are_compared_row_by_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, value in zip(paths, (4.0, 1.0), strict=True):
        rows = [Row(name="x", value=value, unit="s"), Row(name=f"only {value}", value=1.0)]
        recording(path).add("a", rows, {"samples": value})
    capsys.readouterr()
    compare.main(list(map(str, paths)))
    printed = capsys.readouterr().out
    assert "| x | 1 s | 4 s | 4.00 |" in printed
    assert "only" not in printed
    assert "Settings differ. Before: {'samples': 4.0}." in printed


def test_records_of_two_machines_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    recording(paths[0]).add("a", [Row(name="x", value=1.0)])
    monkeypatch.setattr(recorder, "describe_machine", lambda: OTHER)
    recording(paths[1]).add("a", [Row(name="x", value=1.0)])
    with pytest.raises(RdmBatchError, match="measure both on one machine"):
        compare.main(list(map(str, paths)))


def test_records_of_the_earlier_form_are_not_compared(tmp_path: Path) -> None:
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    paths[0].write_text('{"rows": []}')
    recording(paths[1]).add("a", [Row(name="x", value=1.0)])
    with pytest.raises(RdmBatchError, match="is of an earlier form"):
        compare.main(list(map(str, paths)))


def test_an_expected_failure_ends_a_benchmark_without_a_traceback() -> None:
    def fail() -> None:
        raise RdmBatchError("here", "this was found")

    with pytest.raises(SystemExit, match=r"^here: this was found$"):
        recorder.run(fail)
