from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rdm_batch.cli import main
from rdm_batch.errors import ClusterError
from rdm_batch.generation.job import JobRun
from rdm_batch.regression import speeds
from rdm_batch.regression.history import History
from rdm_batch.regression.interleave import TimedRun
from rdm_batch.regression.records import EXIT_CODES
from rdm_batch.regression.suite import Suite, load_suite
from rdm_batch.reports.progress import Progress
from tests.job_kit import job_document, write_job
from tests.regression.kit import with_rate

ROOT = Path(__file__).parents[2]

GATES: dict[str, Any] = {
    "identity": True,
    "paired": {"primary": "fid", "delta": {"fid": 0.5, "precision": 0.2}},
    "bounds": ["fid"],
    "speed": {"primary": "images_per_s", "repeats": 1},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("suite")


def _suite(root: Path, gates: dict[str, Any] = GATES, *overrides: str) -> Suite:
    if not (root / "job.yaml").exists():
        document = job_document(root)
        document["output"]["shard_size"] = 12
        document["sampling"] |= {"num_samples": 24, "batch_size": 24}
        document["evaluation"]["scores"] = ["fid", "precision"]
        write_job(root / "job.yaml", document)
    path = root / "suite.yaml"
    entry = {"name": "tiny", "job": "job.yaml", "canary": 8, "gates": gates}
    document = {
        "kind": "suite",
        "name": "test",
        "baseline": "baseline.yaml",
        "output": str(root / "out"),
        "jobs": [entry | {"overrides": list(overrides)}],
    }
    path.write_text(yaml.safe_dump(document))
    return load_suite(path)


def _bench(*arguments: object) -> int:
    return main(["bench", *map(str, arguments)])


def test_a_first_night_an_accepted_one_and_one_that_changed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, history, junit = _suite(root).path, root / "history", root / "junit.xml"
    night = ("run", path, "--history", history, "--address", "none")
    assert _bench(*night, "--seeds", 3) == EXIT_CODES["no_baseline"]
    assert "nothing was accepted yet" in capsys.readouterr().out
    (first,) = History(str(history)).read().runs
    assert {verdict.outcome for verdict in first.verdicts} == {"no_baseline"}
    names = {figure.name for figure in first.figures}
    assert names >= {"fid", "images_per_s", "bytes_per_image", "peak_memory_bytes"}
    assert first.figure("tiny", "images_per_s").floor > 0  # type: ignore[union-attr, operator]
    assert {figure.job for figure in first.figures} == {"tiny", "tiny@seed=6", "tiny@seed=7"}

    accept = ("accept", path, "--history", history, "--reason", "the first night")
    assert _bench(*accept) == 0
    # Of samples everything is as accepted; of speed it is too early to tell.
    assert _bench(*night, "--junit", junit, "--annotations") == EXIT_CODES["undecided"]
    out = capsys.readouterr().out
    second = History(str(history)).read().runs[-1]
    said = {(v.gate, v.figure): v for v in second.verdicts if v.decides}
    assert said["identity", None].outcome == "pass"
    assert "of all 8 samples are the accepted ones" in said["identity", None].reason
    assert [said[gate, "fid"].outcome for gate in ("paired", "bounds")] == ["pass", "pass"]
    assert said["speed", "images_per_s"].outcome == "undecided"
    assert "undecided" in junit.read_text()
    assert "::warning" in out

    # A program that draws otherwise, as no job file tells: one weight is off.
    weights = root / "head.safetensors"
    kept = weights.read_bytes()
    damaged = bytearray(kept)
    damaged[-3] ^= 0x10
    weights.write_bytes(bytes(damaged))
    try:
        assert _bench(*night) == EXIT_CODES["not_comparable"]
    finally:
        weights.write_bytes(kept)
    out = "".join(capsys.readouterr().out.split())
    assert "model.checkpoint_digest" in out

    page = root / "page.html"
    assert _bench("page", history, "--out", page) == 0
    assert "model.checkpoint_digest" in page.read_text()


def test_another_checkout_and_repeats_run_in_processes_of_their_own(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = {"primary": "images_per_s", "repeats": 3}
    path = _suite(root, {"identity": False, "speed": speed}).path
    history = History(str(tmp_path / "history"))
    before = tmp_path / "before"
    (before / "rdm_batch").mkdir(parents=True)
    (before / "rdm_batch" / "__init__.py").touch()
    runs: list[Path] = []

    def timed(checkout: Path, job: Path, output: Path, *_: Any) -> TimedRun:
        output.mkdir()
        runs.append(checkout)
        rate = 10.0 + 0.001 * len(runs)
        return TimedRun(with_rate(rate if checkout == before else 0.9 * rate), 1 << 30, 5.0)

    monkeypatch.setattr(speeds, "run_timed", timed)
    night = ("run", path, "--history", history.uri, "--address", "none")
    assert _bench(*night, "--against", before, "--pairs", 6) == EXIT_CODES["fail"]
    assert [runs.count(checkout) for checkout in (before, ROOT)] == [7, 7]
    (first,) = history.read().runs
    (said,) = [verdict for verdict in first.verdicts if verdict.decides]
    assert said.figure == "images_per_s"
    assert said.details["ratio"] == pytest.approx(0.9, abs=0.001)
    assert "from 6 pairs in turn" in said.reason

    runs.clear()
    # That night's speed is of one run, this one's of three: no history of it yet.
    assert _bench(*night) == EXIT_CODES["not_comparable"]
    assert runs == [ROOT] * 3
    second = history.read().runs[-1]
    rate = second.figure("tiny", "images_per_s")
    assert rate is not None
    assert rate.values == pytest.approx((9.0009, 9.0018, 9.0027))
    assert rate.value == rate.values[1]
    assert rate.floor is not None
    assert second.figure("tiny", "cpu_s").value == 5.0  # type: ignore[union-attr]

    for wrong in (("--pairs", 6), ("--against", before, "--pairs", 5)):
        assert _bench(*night, *wrong) == 1


def test_a_job_that_fails_passes_no_gate_and_keeps_no_other_from_running(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = _suite(root, {"identity": True})
    document = yaml.safe_load(suite.path.read_text())
    document["jobs"] = [document["jobs"][0] | {"name": name} for name in ("broken", "sound")]
    document["output"] = str(tmp_path / "out")
    path = root / "two.yaml"
    path.write_text(yaml.safe_dump(document))
    complete = JobRun.complete

    def failing(self: JobRun, cluster: Any, progress: Progress) -> Any:
        if "broken" in self._job.spec.output.uri:
            raise ClusterError("head", "was lost")
        return complete(self, cluster, progress)

    monkeypatch.setattr(JobRun, "complete", failing)
    night = ("run", path, "--history", tmp_path / "history", "--address", "none")
    assert _bench(*night) == EXIT_CODES["fail"]
    (run,) = History(str(tmp_path / "history")).read().runs
    outcomes = {verdict.job: verdict for verdict in run.verdicts}
    assert outcomes["broken"].reason == "did not finish: head: was lost"
    assert outcomes["broken"].outcome == "fail"
    assert outcomes["sound"].outcome == "no_baseline"
