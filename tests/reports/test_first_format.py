"""Reports and scores that earlier versions wrote, as literal text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rdm_batch.cli import main
from rdm_batch.errors import SampleSetError
from rdm_batch.reports.run_report import RunReport, load_report
from rdm_batch.reports.saved import load_scores

# What `rdm_batch.run` wrote before scores were kept by id, shortened to what tests look at.
REPORT = """{
  "format": "rdm_batch.report/1",
  "job_name": "shapes",
  "spec": {
    "name": "shapes",
    "evaluation": {
      "reference": "package://shapes/reference.npz",
      "scores": ["fid", "clip_fid", "precision", "novelty_database"],
      "extractor": {"name": "shapes-clip", "weights": null, "resize": null},
      "encoder": {"name": "tiny-clip", "weights": "clip.safetensors"},
      "held_out": null
    }
  },
  "spec_digest": "0123",
  "provenance": {
    "command": "python -m rdm_batch.run jobs/quickstart.yaml",
    "software": {"rdm_batch": "0.1.0"},
    "machine": {"cpu_model": "CPU", "num_cores": 2, "memory_bytes": 1024, "gpus": [],
                "platform": "Linux"},
    "started": "2026-01-02T03:04:05Z",
    "ended": "2026-01-02T03:05:05Z",
    "git_commit": null,
    "ray_nodes": []
  },
  "sample_set": {"uri": "out", "rows": 64, "shards": 1, "bytes_written": 1, "resumed_shards": 0},
  "throughput": {"images": 64, "start_up_s": 1.0, "generation_s": 2.0, "heads": []},
  "start_up": [],
  "retrieval": null,
  "scores": [
    {
      "name": "CLIP-FID",
      "value": 12.5,
      "uncertainty": 0.5,
      "uncertainty_method": "infinitesimal jackknife",
      "description": {
        "extractor": "shapes-clip", "extractor_digest": "28", "layer": "embedding",
        "image_size": 32, "resize": "encoder preprocessing", "reference": "b4",
        "num_generated": 64, "num_reference": 4096, "settings": {}, "partial": false
      },
      "higher_is_better": false
    },
    {
      "name": "CLIP-FID",
      "value": 3.25,
      "uncertainty": null,
      "uncertainty_method": "not computed: fewer than 20 samples",
      "description": {
        "extractor": "tiny-clip", "extractor_digest": "99", "layer": "embedding",
        "image_size": 16, "resize": "encoder preprocessing", "reference": "c5",
        "num_generated": 64, "num_reference": 4096, "settings": {}, "partial": false
      },
      "higher_is_better": false
    },
    {
      "name": "precision",
      "value": 0.5,
      "uncertainty": 0.0625,
      "uncertainty_method": "sqrt(p (1 - p) / n)",
      "description": {
        "extractor": "shapes-clip", "extractor_digest": "28", "layer": "embedding",
        "image_size": 32, "resize": "encoder preprocessing", "reference": "b4",
        "num_generated": 64, "num_reference": 4096, "k": 3, "settings": {}, "partial": false
      },
      "higher_is_better": true
    },
    {
      "name": "novelty to database",
      "value": 0.25,
      "uncertainty": 0.01,
      "uncertainty_method": "standard error of the mean over samples; no cost",
      "description": {
        "extractor": "shapes-clip", "extractor_digest": "28", "layer": "embedding",
        "image_size": 32, "resize": "encoder preprocessing", "num_generated": 64,
        "settings": {"database": "d1", "distance": "1 - cosine"}, "partial": false
      },
      "higher_is_better": null
    }
  ],
  "views": null,
  "illustrated": [],
  "warnings": []
}
"""

# What `rdm-batch evaluate --json` has written from the start.
SCORES = """[
  {
    "value": 9.0,
    "uncertainty": 0.5,
    "uncertainty_method": "infinitesimal jackknife",
    "description": {
      "name": "fid", "extractor": "shapes-clip", "extractor_digest": "28", "layer": "embedding",
      "image_size": 32, "resize": "encoder preprocessing", "reference": "b4",
      "num_generated": 64, "num_reference": 4096, "k": null, "seed": null, "settings": {},
      "partial": false
    }
  }
]
"""


def _report(**changes: Any) -> RunReport:
    return load_report(json.dumps(json.loads(REPORT) | changes).encode())


def _unlisted(*indices: int) -> list[str]:
    """Read some of the scores of a report whose job does not list them; give their ids."""
    scores = json.loads(REPORT)["scores"]
    report = _report(spec={}, scores=[scores[index] for index in indices])
    return [score.id for score in report.scores]


def test_scores_of_an_old_report_are_known_by_id() -> None:
    report = load_report(REPORT.encode())
    fid, clip_fid, precision, novelty = report.scores
    assert [score.id for score in report.scores] == [
        "fid",
        "clip_fid",
        "precision",
        "novelty_database",
    ]
    assert [fid.value, clip_fid.value, precision.value, novelty.value] == [12.5, 3.25, 0.5, 0.25]
    assert (fid.uncertainty, clip_fid.uncertainty) == (0.5, None)
    assert precision.description.k == 3
    assert novelty.description.settings == {"database": "d1", "distance": "1 - cosine"}
    assert [fid.better, precision.better, novelty.better] == ["lower", "higher", None]


def test_an_old_report_is_saved_in_the_form_of_today_and_opens_again() -> None:
    report = load_report(REPORT.encode())
    again = json.loads(report.to_json())
    assert again["format"] == "rdm_batch.report/2"
    assert again["scores"][1]["description"]["name"] == "clip_fid"
    assert "warnings" not in again
    assert load_report(report.to_json()) == report


def test_the_job_tells_which_clip_fid_it_was() -> None:
    content = json.loads(REPORT)
    content["spec"]["evaluation"]["scores"][:2] = ["clip_fid", "fid"]
    report = load_report(json.dumps(content).encode())
    assert [score.id for score in report.scores[:2]] == ["clip_fid", "fid"]


@pytest.mark.parametrize(
    ("indices", "ids"),
    [
        ((0, 1, 2), ["fid", "clip_fid", "precision"]),
        ((1, 0, 2), ["clip_fid", "fid", "precision"]),
        ((1, 2), ["clip_fid", "precision"]),
        ((0, 2), ["fid", "precision"]),
        ((0, 0, 2), ["fid", "clip_fid", "precision"]),
        ((1, 0), ["fid", "clip_fid"]),
        ((1,), ["fid"]),
    ],
)
def test_without_the_job_extractors_and_order_tell(
    indices: tuple[int, ...], ids: list[str]
) -> None:
    assert _unlisted(*indices) == ids


def test_a_condition_that_has_no_field_any_more_still_counts() -> None:
    scores = json.loads(REPORT)["scores"][:1]
    scores[0]["description"]["dtype"] = "float16"
    (score,) = _report(spec={}, scores=scores).scores
    assert score.description.settings == {"dtype": "float16"}


@pytest.mark.parametrize(
    "scores",
    [[{"value": 1}], ["fid"], 3, [{"name": "FID", "value": 1, "description": []}], [{"name": {}}]],
    ids=["no name", "text", "number", "no description", "odd name"],
)
def test_damaged_scores_of_an_old_report_are_one_clear_error(scores: object) -> None:
    with pytest.raises(SampleSetError, match=r"report\.json: 1 problem\(s\), .*scores"):
        _report(spec={}, scores=scores)


def test_saved_scores_of_an_earlier_version_open(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(SCORES)
    (score,) = load_scores(str(path))
    assert (score.id, score.label, score.value) == ("fid", "CLIP-FID", 9.0)


def test_an_old_report_compares_with_saved_scores_of_the_same_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, scores = tmp_path / "report.json", tmp_path / "scores.json"
    report.write_text(REPORT)
    better = json.loads(SCORES)
    better[0]["value"] = 99.0
    scores.write_text(json.dumps(better))
    assert main(["report", str(report), str(scores), "--fail-on-worse"]) == 3
    out = capsys.readouterr().out
    assert "CLIP-FID (fid) ↓" in out
    assert "do not compare" not in out
