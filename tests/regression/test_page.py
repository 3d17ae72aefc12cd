"""The page of a history, JUnit XML and annotations."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from rdm_batch.errors import RegressionError
from rdm_batch.regression.ci import annotation_lines, junit_xml
from rdm_batch.regression.history import Contents
from rdm_batch.regression.page import history_page
from rdm_batch.regression.records import Run, Verdict
from rdm_batch.regression.speed import judge_history
from rdm_batch.reports.nightly_page import safe_link
from tests.regression.kit import make_figure, make_run, night

HOSTILE = '<script>alert("x")</script>'


def history(slower: float = 0.93, nights: int = 50, step: int = 45) -> list[Run]:
    random = np.random.default_rng(0)
    runs: list[Run] = []
    for number in range(nights):
        rate = 50 * (slower if number >= step else 1) * (1 + 0.01 * random.standard_normal())
        figures = (
            make_figure(),
            make_figure(
                "images_per_s",
                rate,
                kind="speed",
                unit="images/s",
                better="higher",
                floor=100.0,
            ),
            make_figure("query_p99_s", 0.002, kind="latency", unit="s"),
            make_figure("peak_memory_bytes", 9.1e8, kind="memory", unit="B"),
        )
        run = make_run(
            night(number),
            commit=f"{number:03d}".ljust(40, "c"),
            figures=figures,
            pages={"shapes": f"https://example.org/{number}/report.html"},
        )
        verdicts = (
            judge_history(run, runs, "shapes", "images_per_s"),
            judge_history(run, runs, "shapes", "query_p99_s", decides=False),
            Verdict(gate="identity", job="shapes", outcome="pass", reason="256 of 256 are equal"),
        )
        runs.append(run.model_copy(update={"verdicts": verdicts}))
    return runs


def test_page_says_what_failed_first_and_names_the_commits_of_the_step() -> None:
    page = history_page(Contents(tuple(history())), "/data/history")
    assert page.index('class="outcome fail"') < page.index("images_per_s</b>")
    rows = re.findall(r'<td><span class="outcome (\w+)">', page)
    assert rows[0] == "fail"
    assert f"between {'044'.ljust(12, 'c')} and {'045'.ljust(12, 'c')}" in page
    assert 'href="https://example.org/45/report.html"' in page
    assert page.count("<svg") == 5  # four figures, and one over its floor
    assert "−" in page
    assert "src=" not in page


def test_what_a_history_says_is_shown_and_never_run() -> None:
    runs = history(nights=3)
    hostile = runs[-1].model_copy(
        update={
            "suite": HOSTILE,
            "pages": {"shapes": "javascript:alert(1)"},
            "verdicts": (
                Verdict(gate="bounds", job=HOSTILE, outcome="fail", reason=f"bad {HOSTILE}"),
            ),
        }
    )
    page = history_page(Contents((hostile,), unread=(HOSTILE,)), HOSTILE)
    assert "<script" not in page
    assert 'href="javascript' not in page
    xml = junit_xml(hostile.model_copy(update={"suite": "a\x00b"}))
    assert ET.fromstring(xml).get("name") == "a\ufffdb"
    assert safe_link("s3://bucket/report.html") is None
    assert safe_link("data:text/html,x") is None
    assert safe_link("http://[bad") is None
    assert safe_link("/home/x/report.html") == "/home/x/report.html"


def test_warnings_of_the_history_are_on_the_page() -> None:
    runs = history(nights=2)
    stored = [run.model_copy(update={"position": i}) for i, run in enumerate(reversed(runs))]
    page = history_page(Contents(tuple(stored), unread=("a.parquet: is torn",)), "/h")
    assert "a.parquet: is torn" in page
    assert "one of the clocks is wrong" in page


def test_a_history_without_a_run_has_no_page() -> None:
    with pytest.raises(RegressionError, match="holds no run"):
        history_page(Contents(()), "/h")
    with pytest.raises(RegressionError, match="suite other"):
        history_page(Contents(tuple(history(nights=1))), "/h", "other")


def judged() -> Run:
    def say(outcome: str, decides: bool = True, **about: str) -> Verdict:
        fields = {"gate": "paired", "job": "a", "reason": "50 % of it: so, and so", **about}
        return Verdict.model_validate({**fields, "outcome": outcome, "decides": decides})

    return make_run().model_copy(
        update={
            "verdicts": (
                say("pass"),
                say("fail", figure="fid"),
                say("undecided"),
                say("fail", decides=False),
                say("no_baseline", job="b"),
            )
        }
    )


def test_junit_counts_what_is_no_pass_and_skips_what_only_explains() -> None:
    root = ET.fromstring(junit_xml(judged()))
    counts = {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "2", "skipped": "1"}
    suites = {suite.get("name"): suite for suite in root}
    assert [len(suites[name]) for name in ("a", "b")] == [4, 1]
    failure = suites["a"].find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "50 % of it: so, and so"
    case = suites["a"].findall("testcase")[1]
    assert case.get("name") == "paired fid"


def test_annotations_are_workflow_commands_on_one_line_each() -> None:
    lines = annotation_lines(judged(), "jobs/a,b.yaml")
    assert lines[0] == (
        "::error file=jobs/a%2Cb.yaml,title=a%3A paired fid fail::50 %25 of it: so, and so"
    )
    assert [line.split(" ")[0] for line in lines] == [
        "::error",
        "::warning",
        "::notice",
        "::notice",
    ]
    broken = judged().verdicts[1].model_copy(update={"reason": "one\ntwo\r::error::three"})
    found = annotation_lines(make_run().model_copy(update={"verdicts": (broken,)}))
    assert len(found) == 1
    assert "\n" not in found[0]
    assert "\r" not in found[0]
