from __future__ import annotations

import io

import pytest
from rich.console import Console

from rdm_batch.reports.compare import Comparison, Row, Verdict, compare, print_comparison
from rdm_batch.reports.run_report import RunReport, Throughput
from rdm_batch.specs.scores import Score
from tests.reports.fixtures import make_report, make_score


def with_rate(images_per_s: float) -> RunReport:
    throughput = Throughput(images=1000, start_up_s=10, generation_s=1000 / images_per_s)
    return make_report().model_copy(update={"throughput": throughput})


def with_scores(*scores: Score) -> RunReport:
    return make_report().model_copy(update={"scores": scores})


def row(comparison: Comparison, name: str) -> Row:
    return next(row for row in comparison.rows if row.name == name)


def fid(value: float, uncertainty: float | None, **description: object) -> Score:
    return make_score("fid", value, uncertainty, **{"k": None} | description)


def test_a_run_is_the_same_as_itself() -> None:
    comparison = compare(make_report(), make_report())
    assert {row.verdict for row in comparison.rows} == {Verdict.SAME}
    assert {row.change for row in comparison.rows} == {"+0.0 %"}
    assert comparison.job_differences == comparison.origin_differences == ()


@pytest.mark.parametrize(
    ("rate", "verdict"),
    [(89.0, Verdict.WORSE), (96.0, Verdict.SAME), (104.0, Verdict.SAME), (120.0, Verdict.BETTER)],
)
def test_speed_is_judged_beyond_the_tolerance(rate: float, verdict: Verdict) -> None:
    comparison = compare(with_rate(100.0), with_rate(rate), tolerance=0.05)
    assert row(comparison, "images/s").verdict is verdict
    assert ("images/s" in comparison.worse) == (verdict is Verdict.WORSE)


def test_longer_latency_is_worse() -> None:
    comparison = compare(make_report(seed=0), make_report(seed=0))
    assert comparison.worse == ()
    report = make_report()
    assert report.retrieval is not None
    slower = report.retrieval.per_query.model_copy(update={"p99_s": 1.0})
    retrieval = report.retrieval.model_copy(update={"per_query": slower})
    comparison = compare(report, report.model_copy(update={"retrieval": retrieval}))
    assert comparison.worse == ("query latency p99",)


def test_scores_within_their_uncertainty_are_the_same() -> None:
    first = with_scores(fid(10.0, 0.3))
    assert row(compare(first, with_scores(fid(10.8, 0.3))), "FID ↓").verdict is Verdict.SAME
    assert row(compare(first, with_scores(fid(10.9, 0.3))), "FID ↓").verdict is Verdict.WORSE
    assert row(compare(first, with_scores(fid(9.1, 0.3))), "FID ↓").verdict is Verdict.BETTER


def test_scores_without_uncertainty_fall_back_to_the_tolerance() -> None:
    first = with_scores(fid(10.0, None))
    assert row(compare(first, with_scores(fid(10.4, None))), "FID ↓").verdict is Verdict.SAME
    assert row(compare(first, with_scores(fid(10.6, None))), "FID ↓").verdict is Verdict.WORSE


def test_scores_of_unlike_descriptions_get_no_verdict_but_the_reason() -> None:
    first = with_scores(fid(10.0, 0.1, settings={"filter": "bicubic"}))
    second = with_scores(fid(99.0, 0.1, settings={"filter": "box"}, k=3))
    found = row(compare(first, second), "FID ↓")
    assert found.verdict is Verdict.UNKNOWN
    assert found.unlike == ("settings.filter: bicubic -> box", "k: not set -> 3")
    stream = io.StringIO()
    print_comparison(first, second, compare(first, second), Console(file=stream, width=80))
    assert (
        "The two do not compare in FID ↓\n  settings.filter: bicubic -> box\n" in stream.getvalue()
    )


def test_a_score_of_one_run_only_is_listed() -> None:
    found = row(compare(with_scores(), with_scores(fid(10.0, 0.1))), "FID ↓")
    assert (found.first, found.note) == ("-", "only in B")
    found = row(compare(with_scores(fid(10.0, 0.1)), with_scores()), "FID ↓")
    assert (found.second, found.note) == ("-", "only in A")


def test_a_resumed_run_without_images_has_no_rate_to_compare() -> None:
    idle = Throughput(images=0, start_up_s=10, generation_s=0)
    second = make_report().model_copy(update={"throughput": idle})
    found = row(compare(make_report(), second), "images/s")
    assert (found.second, found.verdict) == ("-", Verdict.UNKNOWN)


def test_differences_of_job_and_machine_are_named() -> None:
    first = make_report()
    machine = first.provenance.machine.model_copy(update={"num_cores": 64})
    provenance = first.provenance.model_copy(
        update={"machine": machine, "software": {"rdm_batch": "0.2.0", "torch": "2.14.1"}}
    )
    spec = {"name": "shapes", "sampling": {"num_steps": 50, "guidance_scale": 1.5}}
    second = first.model_copy(update={"provenance": provenance, "spec": spec})
    comparison = compare(first, second)
    assert comparison.job_differences == ("sampling.num_steps: 20 -> 50",)
    assert comparison.origin_differences == (
        "machine.num_cores: 2 -> 64",
        "software.rdm_batch: 0.1.0 -> 0.2.0",
    )


@pytest.mark.parametrize("width", [80, 120])
def test_printed_comparison_fits_the_width(width: int) -> None:
    first, second = make_report(), with_rate(100.0)
    second = second.model_copy(update={"scores": (fid(1234.5, 0.012), *first.scores[1:])})
    stream = io.StringIO()
    print_comparison(first, second, compare(first, second), Console(file=stream, width=width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.split()[:3] == ["images/s", "25.6", "100"] for line in lines)
    assert not any("…" in line for line in lines)
