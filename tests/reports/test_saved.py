from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdm_batch.errors import SampleSetError
from rdm_batch.reports.saved import SavedRun, load_run, save_page, save_run
from tests.reports.fixtures import make_latencies, make_pictures, make_report


def saved(folder: Path) -> SavedRun:
    report = make_report()
    run = SavedRun(report, make_latencies(), make_pictures(report))
    save_run(str(folder), run)
    return run


def test_a_saved_run_loads_as_it_was(tmp_path: Path) -> None:
    run = saved(tmp_path)
    copy = load_run(str(tmp_path))
    assert copy.report == run.report
    assert copy.pictures == run.pictures
    assert copy.latencies is not None
    assert run.latencies is not None
    np.testing.assert_array_equal(copy.latencies.query_s, run.latencies.query_s)


def test_the_page_written_again_is_the_same_page(tmp_path: Path) -> None:
    saved(tmp_path)
    page = tmp_path / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert save_page(str(tmp_path), load_run(str(tmp_path))) == str(page)
    assert page.read_bytes() == before


def test_a_report_alone_loads_without_pictures(tmp_path: Path) -> None:
    run = saved(tmp_path)
    baseline = tmp_path / "baseline.json"
    baseline.write_bytes((tmp_path / "report.json").read_bytes())
    assert load_run(str(baseline)) == SavedRun(run.report)


def test_a_run_that_saved_only_its_report_still_has_a_page(tmp_path: Path) -> None:
    save_run(str(tmp_path), SavedRun(make_report()))
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html"}
    assert load_run(str(tmp_path)) == SavedRun(make_report())


def test_a_location_without_report_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SampleSetError, match=r"report\.json: does not exist; .*run the job"):
        load_run(str(tmp_path))


@pytest.mark.parametrize("name", ["report.json", "latencies.parquet", "illustrations.parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    saved(tmp_path)
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(SampleSetError, match=name):
        load_run(str(tmp_path))
