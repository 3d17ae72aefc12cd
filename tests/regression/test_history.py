from __future__ import annotations

import contextlib
import io
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdm_batch.errors import RegressionError
from rdm_batch.regression.history import History, parse_run, run_bytes
from rdm_batch.regression.records import EXIT_CODES, WORST_FIRST, Verdict, machine_class
from rdm_batch.storage.store import ObjectInfo
from tests.regression.kit import MACHINE, make_figure, make_run, night


def test_history_gives_back_what_was_stored_on_every_store(storage_uri: str) -> None:
    history = History(storage_uri)
    rate = make_figure(
        "images_per_s", 3.5, kind="speed", floor=4.0, error=None, values=(3.0, 3.5, 3.25)
    )
    figures = (make_figure(), rate)
    verdict = Verdict(
        gate="bounds", job="shapes", figure="fid", outcome="pass", reason="10.0 inside [9, 11]"
    )
    stored = [
        history.append(make_run(night(n), figures=figures, verdicts=(verdict,))) for n in range(3)
    ]
    assert [run.position for run in stored] == [0, 1, 2]
    found = history.read()
    assert found.runs == tuple(stored)
    assert found.unread == ()
    assert found.backwards == ()


def test_runs_are_tables_that_others_read(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    history.append(make_run())
    table = pq.read_table(tmp_path / "runs")
    assert table.to_pylist()[0]["name"] == "fid"
    assert table.to_pylist()[0]["value"] == 10.0


def test_runs_from_before_there_were_repeats_are_read() -> None:
    run = make_run()
    table = pq.read_table(io.BytesIO(run_bytes(run)))
    sink = io.BytesIO()
    pq.write_table(table.drop_columns(["values"]), sink)
    assert parse_run(sink.getvalue(), "an earlier run") == run


def test_nights_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    runs = [make_run(night(0)) for _ in range(12)]
    gate = threading.Barrier(len(runs))

    def store(number: int) -> None:
        gate.wait()
        History(str(tmp_path)).append(runs[number])

    threads = [threading.Thread(target=store, args=(number,)) for number in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {run.id for run in History(str(tmp_path)).read().runs} == {run.id for run in runs}


def test_a_run_stored_between_two_looks_at_a_new_history_is_none_of_its_troubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, look = History(str(tmp_path)), History(str(tmp_path)).store.list_objects

    def looking(prefix: str = "") -> list[ObjectInfo]:
        found = list(look(prefix))
        if prefix:
            History(str(tmp_path)).append(make_run())
        return found

    monkeypatch.setattr(history.store, "list_objects", looking)
    assert history.read().runs == ()
    monkeypatch.undo()
    assert len(history.read().runs) == 1


def test_nothing_is_ever_written_again(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    run = history.append(make_run())
    before = (tmp_path / "runs" / f"{run.id}.parquet").read_bytes()
    with pytest.raises(RegressionError, match="is there already, and nothing in a history"):
        history.append(run.model_copy(update={"figures": ()}))
    assert (tmp_path / "runs" / f"{run.id}.parquet").read_bytes() == before
    history.keep(run.id, "canary.parquet", b"1")
    with pytest.raises(RegressionError, match="is there already"):
        history.keep(run.id, "canary.parquet", b"2")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_torn_files_are_told_and_not_read(tmp_path: Path, kept: int) -> None:
    history = History(str(tmp_path))
    sound = history.append(make_run())
    torn = make_run(night(1))
    (tmp_path / "runs" / f"{torn.id}.parquet").write_bytes(run_bytes(torn)[:kept])
    found = history.read()
    assert found.runs == (sound,)
    (line,) = found.unread
    assert torn.id in line
    assert "is torn or damaged" in line


def test_a_flipped_bit_of_a_figure_is_found() -> None:
    data = bytearray(run_bytes(make_run()))
    sound = parse_run(bytes(data), "a run")
    for place in range(4, 300):
        data[place] ^= 1
        with contextlib.suppress(RegressionError):
            assert parse_run(bytes(data), "a run").figures == sound.figures
        data[place] ^= 1


def _other_parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("foreign.parquet", _other_parquet(), "a parquet file of something else"),
        ("notes.txt", b"hello", "is torn or damaged"),
        ("renamed.parquet", run_bytes(make_run()), "under another name"),
    ],
)
def test_foreign_files_are_told_and_not_read(
    tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    history = History(str(tmp_path))
    sound = history.append(make_run())
    (tmp_path / "runs" / name).write_bytes(data)
    found = history.read()
    assert found.runs == (sound,)
    (line,) = found.unread
    assert name in line
    assert says in line


def test_a_history_of_another_format_is_refused_before_work(tmp_path: Path) -> None:
    run = make_run()
    data = run_bytes(run)
    table = pq.read_table(io.BytesIO(data))
    header = table.schema.metadata[b"rdm_batch.nightly"].replace(b"nightly/1", b"nightly/9")
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"rdm_batch.nightly": header}), sink)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / f"{run.id}.parquet").write_bytes(sink.getvalue())
    with pytest.raises(RegressionError, match=r"none of its 1 runs.*nightly/9"):
        History(str(tmp_path)).check_writable()


def test_a_location_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sample_set.json").write_text("{}")
    with pytest.raises(RegressionError, match=r"holds sample_set\.json and no runs/"):
        History(str(tmp_path)).check_writable()


def test_clocks_that_run_backwards_are_told_and_change_no_order(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    stored = [history.append(make_run(night(n))) for n in (0, 5, 2, 6)]
    found = history.read()
    assert found.runs == tuple(stored)
    (line,) = found.backwards
    assert stored[2].id in line
    assert stored[1].id in line


def test_every_outcome_has_an_exit_code_apart_from_errors_and_usage() -> None:
    assert set(EXIT_CODES) == set(WORST_FIRST)
    assert EXIT_CODES["pass"] == 0
    others = [code for outcome, code in EXIT_CODES.items() if outcome != "pass"]
    assert len(set(others)) == len(others)
    assert not {0, 1, 2} & set(others)


def test_a_run_without_verdicts_is_no_pass() -> None:
    assert make_run().outcome == "no_baseline"


def test_machines_of_one_class_have_the_same_devices() -> None:
    assert machine_class(MACHINE) == "2 x Example CPU"
    gpus = MACHINE.model_copy(update={"gpus": ("NVIDIA H200", "NVIDIA H200")})
    assert machine_class(gpus) == "2 x NVIDIA H200"
