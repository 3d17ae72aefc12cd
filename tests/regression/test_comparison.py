from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rdm_batch.cli import main
from rdm_batch.errors import SpecError
from rdm_batch.metrics.pairing import Influences
from rdm_batch.regression.comparison import (
    Cell,
    Comparison,
    Threshold,
    compare_sides,
    parse_thresholds,
)
from rdm_batch.regression.comparison_table import comparison_json, print_comparison
from rdm_batch.regression.history import History
from rdm_batch.regression.sides import report_side, run_sides
from rdm_batch.reports.run_report import RunReport, Throughput
from rdm_batch.specs.scores import Score
from tests.regression.kit import make_figure, make_run, night, with_rate
from tests.reports.fixtures import make_report, make_score


def with_scores(*scores: Score) -> RunReport:
    return make_report().model_copy(update={"scores": scores})


def compared(*reports: RunReport, **settings: object) -> Comparison:
    return compare_sides([report_side(report) for report in reports], **settings)  # type: ignore[arg-type]


def cell(comparison: Comparison, key: str, side: int = 0) -> Cell:
    return next(row for row in comparison.rows if row.key == key).others[side]


def fid(value: float, uncertainty: float | None, **description: object) -> Score:
    return make_score("fid", value, uncertainty, **{"k": None} | description)


def printed(comparison: Comparison, width: int = 80) -> str:
    stream = io.StringIO()
    print_comparison(comparison, console=Console(file=stream, width=width))
    return stream.getvalue()


def test_a_run_is_the_same_as_itself() -> None:
    comparison = compared(make_report(), make_report())
    assert {found.word for row in comparison.rows for found in row.others} == {"same"}
    assert comparison.outcome == "pass"
    assert comparison.job_differences == comparison.origin_differences == ((),)


@pytest.mark.parametrize(
    ("rate", "word", "outcome"),
    [
        (89.0, "worse", "fail"),
        (96.0, "same", "pass"),
        (104.0, "same", "pass"),
        (120.0, "better", "pass"),
    ],
)
def test_speed_is_judged_beyond_the_tolerance(rate: float, word: str, outcome: str) -> None:
    reports = with_rate(100.0), with_rate(rate)
    comparison = compared(*reports, chosen=["images_per_s"], tolerance=0.05)
    assert (cell(comparison, "images_per_s").word, comparison.outcome) == (word, outcome)
    # Nobody aimed at it: scores decide, and they are the same.
    assert compared(*reports).outcome == "pass"


def test_speeds_of_other_machines_do_not_compare() -> None:
    first = make_report()
    machine = first.provenance.machine.model_copy(update={"num_cores": 64})
    provenance = first.provenance.model_copy(update={"machine": machine})
    second = first.model_copy(update={"provenance": provenance})
    comparison = compared(first, second, chosen=["images_per_s"])
    assert comparison.outcome == "not_comparable"
    assert cell(comparison, "images_per_s").unlike == (
        "measured on: 2 x Test CPU -> 64 x Test CPU",
    )


def test_longer_latency_is_worse_where_it_is_chosen() -> None:
    report = make_report()
    assert report.retrieval is not None
    slower = report.retrieval.per_query.model_copy(update={"p99_s": 1.0})
    retrieval = report.retrieval.model_copy(update={"per_query": slower})
    second = report.model_copy(update={"retrieval": retrieval})
    comparison = compared(report, second)
    assert comparison.outcome == "pass"
    assert cell(comparison, "query_p99_s").word == "worse"
    assert compared(report, second, chosen=["query_p99_s"]).outcome == "fail"


def test_scores_within_their_uncertainty_are_the_same() -> None:
    first = with_scores(fid(10.0, 0.3))
    for value, word in ((10.8, "same"), (10.9, "worse"), (9.1, "better")):
        assert cell(compared(first, with_scores(fid(value, 0.3))), "fid").word == word


def test_scores_without_uncertainty_fall_back_to_the_tolerance() -> None:
    first = with_scores(fid(10.0, None))
    for value, word in ((10.4, "same"), (10.6, "worse")):
        assert cell(compared(first, with_scores(fid(value, None))), "fid").word == word


def test_pairs_see_what_two_errors_in_quadrature_hide() -> None:
    generator = np.random.default_rng(0)
    values = generator.standard_normal(1000)
    close = values + 0.1 * generator.standard_normal(1000)
    sides = [
        replace(
            report_side(with_scores(fid(value, 0.03))),
            influences={"fid": Influences("samples", np.arange(1000), moved - moved.mean())},
            seed=0,
        )
        for value, moved in ((10.0, values), (10.03, close))
    ]
    paired = cell(compare_sides(sides), "fid")
    assert (paired.word, paired.paired) == ("worse", True)
    assert paired.error == pytest.approx(0.1 / np.sqrt(1000), rel=0.1)
    other_seed = cell(compare_sides([sides[0], replace(sides[1], seed=1)]), "fid")
    assert (other_seed.word, other_seed.paired) == ("same", False)


@pytest.mark.parametrize(
    ("value", "error", "word"),
    [(10.05, 0.05, "same"), (10.4, 0.05, "worse"), (10.2, 0.1, "undecided"), (9, 0.05, "better")],
)
def test_a_threshold_is_passed_or_failed_for_sure_or_undecided(
    value: float, error: float, word: str
) -> None:
    reports = with_scores(fid(10.0, error)), with_scores(fid(value, error))
    comparison = compared(*reports, thresholds={"fid": Threshold(0.2)})
    assert cell(comparison, "fid").word == word
    relative = compared(*reports, thresholds={"fid": Threshold(0.02, relative=True)})
    assert cell(relative, "fid").word == word


def test_scores_of_unlike_descriptions_are_no_pass_and_say_why() -> None:
    first = with_scores(fid(10.0, 0.1, settings={"filter": "bicubic"}))
    second = with_scores(fid(99.0, 0.1, settings={"filter": "box"}, k=3))
    comparison = compared(first, second)
    assert cell(comparison, "fid").word == "not comparable"
    assert cell(comparison, "fid").unlike == ("settings.filter: bicubic -> box", "k: not set -> 3")
    assert comparison.outcome == "not_comparable"
    assert "The two do not compare in FID ↓\n  settings.filter: bicubic -> box\n" in printed(
        comparison
    )


def test_a_score_that_vanished_is_no_pass_and_a_new_one_is_no_fault() -> None:
    comparison = compared(with_scores(fid(10.0, 0.1)), with_scores())
    assert cell(comparison, "fid").word == "vanished"
    assert comparison.outcome == "not_comparable"
    both = with_scores(make_score("kid", 1.0, 0.1, k=None), fid(10.0, 0.1))
    comparison = compared(with_scores(fid(10.0, 0.1)), both)
    assert cell(comparison, "kid").word == "new"
    assert comparison.outcome == "pass"


def test_where_nothing_decides_nothing_was_compared() -> None:
    assert compared(with_scores(), with_scores()).outcome == "not_comparable"


def test_many_runs_are_compared_with_the_first() -> None:
    reports = [with_scores(fid(value, 0.1)) for value in (10.0, 10.1, 12.0)]
    comparison = compared(*reports)
    assert [cell(comparison, "fid", side).word for side in (0, 1)] == ["same", "worse"]
    assert comparison.outcome == "fail"
    assert "C is" in printed(comparison)
    assert json.loads(comparison_json(comparison))["outcome"] == "fail"


def test_a_resumed_run_without_images_has_no_rate_to_compare() -> None:
    idle = Throughput(images=0, start_up_s=10, generation_s=0)
    second = make_report().model_copy(update={"throughput": idle})
    assert cell(compared(make_report(), second), "images_per_s").word == "vanished"


def test_differences_of_job_and_machine_are_named() -> None:
    first = make_report()
    machine = first.provenance.machine.model_copy(update={"num_cores": 64})
    provenance = first.provenance.model_copy(
        update={"machine": machine, "software": {"rdm_batch": "0.2.0", "torch": "2.14.1"}}
    )
    spec = {"name": "shapes", "sampling": {"num_steps": 50, "guidance_scale": 1.5}}
    second = first.model_copy(update={"provenance": provenance, "spec": spec})
    comparison = compared(first, second)
    assert comparison.job_differences == (("sampling.num_steps: 20 -> 50",),)
    assert comparison.origin_differences == (
        ("machine.num_cores: 2 -> 64", "software.rdm_batch: 0.1.0 -> 0.2.0"),
    )


@pytest.mark.parametrize("width", [80, 120])
def test_printed_comparison_fits_the_width(width: int) -> None:
    first, second = make_report(), with_rate(100.0)
    second = second.model_copy(update={"scores": (fid(1234.5, 0.012), *first.scores[1:])})
    lines = printed(compared(first, second), width).splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.split()[:3] == ["images/s", "25.6", "100"] for line in lines)
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize("text", ["fid", "fid=", "=3", "fid=-1", "fid=much", "fid=nan", "fid=inf"])
def test_thresholds_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is not understood"):
        parse_thresholds([text])
    found = parse_thresholds(["fid=0.2", "images_per_s=5%"])
    assert found == {"fid": Threshold(0.2), "images_per_s": Threshold(0.05, relative=True)}


def test_figures_that_nobody_has_are_refused() -> None:
    with pytest.raises(SpecError, match=r"--figures: no side has a figure 'fod'.*did you mean fid"):
        compared(with_scores(fid(1.0, 0.1)), with_scores(fid(1.0, 0.1)), chosen=["fod"])


def test_runs_of_a_history_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = History(str(tmp_path))
    figures = [make_figure(value=value, error=0.1) for value in (10.0, 10.1, 12.0)]
    runs = [
        history.append(make_run(night(n), figures=(figure,))) for n, figure in enumerate(figures)
    ]
    assert [side.figures["shapes fid"].value for side in run_sides(runs)] == [10.0, 10.1, 12.0]
    ids = [run.id for run in runs]
    compare = ["bench", "compare", "--history", str(tmp_path)]
    out = tmp_path / "comparison.json"
    assert main([*compare, *ids[:2], "--json", str(out)]) == 0
    assert json.loads(out.read_text())["exit_status"] == 0
    assert main([*compare, ids[0], "latest"]) == 3
    other = make_figure(description="e" * 64)
    history.append(make_run(night(9), figures=(other,)))
    assert main([*compare, ids[0], "latest"]) == 6
    assert "what was measured is not the same" in capsys.readouterr().out
    assert main([*compare, ids[0]]) == 1
    assert "RUN: one run; needed two or more" in capsys.readouterr().err
