"""The report of a sweep: its page, its figures and its files."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydantic import JsonValue
from rich.console import Console

from rdm_batch.errors import SampleSetError
from rdm_batch.reports.run_report import Machine, Provenance
from rdm_batch.reports.sweep_layout import charts, groups_of, plane
from rdm_batch.reports.sweep_page import render_sweep
from rdm_batch.reports.sweep_report import (
    AxisInterval,
    CellReport,
    Difference,
    Ended,
    Optimum,
    SweepReport,
    load_sweep_report,
)
from rdm_batch.reports.sweep_table import print_sweep
from rdm_batch.specs.scores import Score, ScoreDescription
from rdm_batch.storage.png import encode_png
from tests.browser import open_page

AXIS = "sampling.guidance_scale"
TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PROVENANCE = Provenance(
    command="python -m rdm_batch.run a.yaml",
    software={"rdm_batch": "0.1.0"},
    machine=Machine(cpu_model="a CPU", num_cores=2, memory_bytes=1 << 30),
    started=TIME,
    ended=TIME,
)


def score(name: str, value: float, error: float = 0.02) -> Score:
    return Score(value=value, uncertainty=error, description=ScoreDescription(name=name))


def cell(name: str, values: dict[str, JsonValue], fid: float, **other: object) -> CellReport:
    return CellReport.model_validate(
        {
            "name": name,
            "uri": f"out/cells/{name}",
            "digest": "0" * 64,
            "values": values,
            "samples": 512,
            "planned": 512,
            "judged": 512,
            "scores": (
                score("fid", fid),
                score("precision", 0.5 + fid / 10),
                score("recall", 0.6 - fid / 10),
            ),
        }
        | other
    )


def report(cells: tuple[CellReport, ...], form: str = "lines", **other: object) -> SweepReport:
    return SweepReport.model_validate(
        {
            "name": "fig",
            "uri": "out",
            "form": form,
            "axes": tuple(cells[0].values),
            "base": cells[0].name,
            "finished": True,
            "cells": cells,
            "provenance": PROVENANCE,
        }
        | other
    )


def guidance() -> SweepReport:
    differences = {"fid": Difference(value=-0.4, error=0.01, paired=True, gain=8.0)}
    ended = Ended(samples=256, best="guidance_scale-2.0", worse_by=0.5, error=0.05)
    return report(
        (
            cell("base", {AXIS: 1.0}, 1.0),
            cell("guidance_scale-2.0", {AXIS: 2.0}, 0.6, differences=differences),
            cell("guidance_scale-1.5", {AXIS: 1.5}, 0.61, differences=differences),
            cell("<b>", {AXIS: 9.0}, 1.4, judged=256, samples=256, ended=ended),
        ),
        optimum=Optimum(
            score="fid",
            cell="guidance_scale-2.0",
            value=0.6,
            error=0.02,
            within=("guidance_scale-2.0", "guidance_scale-1.5"),
            intervals=(AxisInterval(axis=AXIS, low=1.5, high=2.0),),
        ),
    )


def test_the_page_opens_without_complaint_and_fits_a_phone(tmp_path: Path) -> None:
    found = guidance()
    pictures = {
        one.name: [encode_png(np.full((8, 8, 3), 90, dtype=np.uint8))] * 3 for one in found.cells
    }
    path = tmp_path / "sweep.html"
    path.write_text(render_sweep(found, pictures))
    page = open_page(path, width=390, phone=True)
    assert page.console_errors == ()
    assert page.requests == ()
    assert page.scroll_width <= 390
    assert "cannot be told from guidance_scale-1.5" in page.dom_text
    assert "<b>" in page.dom_text  # a name is a text, not markup
    assert "−0.400 ± 0.010" in page.dom_text
    assert "ended: worse than guidance_scale-2.0 by 0.50 ± 0.050" in page.dom_text
    assert path.read_text().count("data:image/png") == 12


def test_a_curve_goes_along_its_axis_whatever_the_order_of_the_cells() -> None:
    fid, precision, recall = charts(guidance())
    (curve,) = fid.curves
    assert [mark.label.split(":")[0] for mark in curve.marks] == [
        "base",
        "guidance_scale-1.5",
        "guidance_scale-2.0",
        "<b>",
    ]
    xs = [mark.x for mark in curve.marks]
    assert xs == sorted(xs)
    lowest = max(curve.marks, key=lambda mark: mark.y)
    assert lowest.best  # the least FID lies lowest, farthest from the top
    assert lowest.low - lowest.y == pytest.approx(2 * (lowest.paired_low - lowest.y), rel=1e-6)
    assert not any(mark.best for chart in (precision, recall) for mark in chart.curves[0].marks)


def test_the_plane_has_a_path_through_all_cells() -> None:
    found = plane(guidance())
    assert found is not None
    (curve,) = found.curves
    assert curve.line.count("L") == 3
    (best,) = [mark for mark in curve.marks if mark.best]
    assert best.label.startswith("guidance_scale-2.0: precision 0.560, recall 0.540")
    fid_alone = guidance().cells[0].model_copy(update={"scores": (score("fid", 1.0),)})
    assert plane(report((fid_alone,))) is None


def test_a_grid_has_a_curve_for_every_other_value() -> None:
    names = [(scale, top) for scale in (1.0, 2.0) for top in (0.1, 1.0)]
    cells = tuple(
        cell(f"{scale}-{top}", {AXIS: scale, "conditioning.top_m": top}, scale + top)
        for scale, top in names
    )
    groups = groups_of(report(cells, form="grid"))
    assert {axis: [group.name for group in found] for axis, found in groups.items()} == {
        AXIS: ["top_m 0.1", "top_m 1.0"],
        "conditioning.top_m": ["guidance_scale 1.0", "guidance_scale 2.0"],
    }


def test_a_list_that_varies_several_fields_stands_in_a_row() -> None:
    cells = (
        cell("ddim", {"sampling.sampler": "ddim", "sampling.num_steps": 50}, 1.0),
        cell("plms", {"sampling.sampler": "plms", "sampling.num_steps": 20}, 2.0),
        cell("dpm", {"sampling.sampler": "dpm_solver_pp", "sampling.num_steps": 10}, 3.0),
    )
    fid = charts(report(cells, form="list"))[0]
    assert [tick.label for tick in fid.ticks_across] == ["ddim", "plms", "dpm"]
    assert fid.curves[0].line == ""


def test_a_sweep_without_scores_has_a_page(tmp_path: Path) -> None:
    bare = guidance().cells[0].model_copy(update={"scores": (), "judged": 0})
    assert "Curves</h2>" not in render_sweep(report((bare,)), {})


def test_the_table_of_the_terminal_names_the_optimum() -> None:
    sink = io.StringIO()
    print_sweep(guidance(), Console(width=120, file=sink))
    shown = sink.getvalue()
    assert "optimum of FID ↓: guidance_scale-2.0" in shown
    assert "it may lie anywhere in guidance_scale 1.5 to 2" in shown


def test_a_narrow_terminal_cuts_no_name_and_no_figure() -> None:
    shown = []
    for width in (46, 200):
        sink = io.StringIO()
        print_sweep(guidance(), Console(width=width, file=sink))
        shown.append(sink.getvalue())
    narrow, wide = shown
    assert "…" not in narrow
    for one in guidance().cells:
        assert narrow.count(one.name) >= wide.count(one.name) > 0
    figures = {word for word in wide.split() if "." in word and word[0].isdigit()}
    assert figures <= set(narrow.split())


def test_the_csv_has_a_row_per_cell() -> None:
    rows = list(csv.DictReader(io.StringIO(guidance().to_csv().decode())))
    assert [row["cell"] for row in rows] == [one.name for one in guidance().cells]
    assert rows[1]["fid_difference"] == "-0.4"
    assert rows[1]["fid_difference_error"] == "0.01"
    assert rows[0]["fid_difference"] == ""
    assert rows[3]["ended"] == "256"


def test_a_report_reads_back_and_a_damaged_one_is_refused() -> None:
    found = guidance()
    assert load_sweep_report(found.to_json(), "sweep.json") == found
    with pytest.raises(SampleSetError, match=r"sweep\.json: .*needed the report of a sweep"):
        load_sweep_report(b'{"format": "rdm_batch.sweep/1"}', "sweep.json")
