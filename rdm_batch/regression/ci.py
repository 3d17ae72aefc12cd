"""The verdicts of a run for machines of continuous integration: JUnit XML and annotations."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from rdm_batch.regression.records import Run, Verdict
from rdm_batch.reports.units import printable

_LEVELS = {"fail": "error", "undecided": "warning", "not_comparable": "error"}
"""Of annotations; what has no baseline yet is a notice, and what passes is not annotated."""


def junit_xml(run: Run) -> bytes:
    """Write the verdicts of a run as JUnit XML: a suite per job, a case per verdict.

    A deciding verdict that fails is a failure, and one that could not be reached is an error: it
    is no pass either. What only explains is skipped, with its reason, unless it passes.

    Args:
        run: With its verdicts.
    """
    root = ET.Element("testsuites", name=_text(run.suite))
    for job in dict.fromkeys(verdict.job for verdict in run.verdicts):
        verdicts = [verdict for verdict in run.verdicts if verdict.job == job]
        suite = ET.SubElement(
            root,
            "testsuite",
            name=_text(job),
            timestamp=run.started.strftime("%Y-%m-%dT%H:%M:%S"),
            hostname=_text(run.machine_class),
        )
        marks = [_case(suite, job, verdict) for verdict in verdicts]
        suite.set("tests", str(len(marks)))
        for name, mark in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(name, str(marks.count(mark)))
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ET.indent(root)
    text: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def annotation_lines(run: Run, file: str | None = None) -> list[str]:
    """Give workflow commands, one line each, as GitHub and what understands it show them.

    Args:
        run: With its verdicts.
        file: The suite file, to which they are attached.
    """
    where = [] if file is None else [f"file={_property(file)}"]
    lines = []
    for verdict in run.verdicts:
        if verdict.outcome == "pass":
            continue
        level = _LEVELS.get(verdict.outcome, "notice") if verdict.decides else "notice"
        title = f"{verdict.job}: {_name(verdict)} {verdict.outcome.replace('_', ' ')}"
        properties = ",".join([*where, f"title={_property(title)}"])
        lines.append(f"::{level} {properties}::{_escaped(verdict.reason)}")
    return lines


def _case(suite: ET.Element, job: str, verdict: Verdict) -> str | None:
    case = ET.SubElement(
        suite, "testcase", classname=_text(job), name=_text(_name(verdict)), time="0"
    )
    if verdict.outcome == "pass":
        ET.SubElement(case, "system-out").text = _text(verdict.reason)
        return None
    mark = "skipped"
    if verdict.decides:
        mark = "failure" if verdict.outcome == "fail" else "error"
    found = ET.SubElement(case, mark, message=_text(verdict.reason))
    if mark != "skipped":
        found.set("type", verdict.outcome)
    return mark


def _name(verdict: Verdict) -> str:
    return verdict.gate if verdict.figure is None else f"{verdict.gate} {verdict.figure}"


def _text(text: str) -> str:
    """XML cannot hold most control characters at all."""
    return printable(" ".join(text.split()))


def _escaped(text: str) -> str:
    plain = _text(text)
    return plain.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
