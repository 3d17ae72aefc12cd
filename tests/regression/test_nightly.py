from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rdm_batch.regression.accept import accept
from rdm_batch.regression.baseline import load_baseline
from rdm_batch.regression.history import History
from rdm_batch.regression.nightly import run_suite, start_run
from rdm_batch.regression.records import Run, Verdict
from rdm_batch.regression.suite import Suite, check_jobs, load_suite
from rdm_batch.reports.progress import Progress
from tests.job_kit import job_document, write_job

GATES: dict[str, Any] = {
    "identity": True,
    "paired": {"primary": "fid", "delta": {"fid": 0.5, "precision": 0.2}},
    "bounds": ["fid"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("suite")


def _suite(root: Path, gates: dict[str, Any] = GATES, *overrides: str) -> Suite:
    if not (root / "job.yaml").exists():
        document = job_document(root)
        document["output"]["shard_size"] = 12
        document["evaluation"]["scores"] = ["fid", "precision"]
        write_job(root / "job.yaml", document)
    path = root / "suite.yaml"
    entry = {"name": "tiny", "job": "job.yaml", "canary": 16, "gates": gates}
    document = {
        "kind": "suite",
        "name": "test",
        "baseline": "baseline.yaml",
        "output": str(root / "out"),
        "jobs": [entry | {"overrides": list(overrides)}],
    }
    path.write_text(yaml.safe_dump(document))
    return load_suite(path)


def _night(suite: Suite, history: History, seeds: int = 1) -> Run:
    baseline = load_baseline(suite.baseline, suite.spec.name)
    run_id, _ = start_run(history, baseline)
    checked = check_jobs(suite, run_id)
    with Progress() as progress:
        return run_suite(suite, checked, run_id, history, baseline, "none", progress, seeds)


def _said(run: Run, gate: str, figure: str | None = None) -> Verdict:
    (found,) = [v for v in run.verdicts if v.gate == gate and v.figure in (None, figure)]
    return found


def test_a_first_night_an_accepted_one_and_one_that_changed(root: Path) -> None:
    suite, history = _suite(root), History(str(root / "history"))
    first = _night(suite, history, seeds=3)
    assert {verdict.outcome for verdict in first.verdicts} == {"no_baseline"}
    assert first.outcome == "no_baseline"
    assert {figure.name for figure in first.figures} >= {"fid", "images_per_s", "bytes_per_image"}

    accept(suite, history, "latest", "the first night")
    second = _night(suite, history)
    assert [v.outcome for v in second.verdicts] == ["pass"] * 4, second.verdicts
    assert second.outcome == "pass"
    assert "of all 16 samples are the accepted ones" in _said(second, "identity").reason
    print(*[f"{v.gate} {v.figure} {v.outcome}: {v.reason}" for v in second.verdicts], sep="\n")
