from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdm_batch.cli import main
from rdm_batch.reports.run_report import Throughput
from rdm_batch.reports.saved import SavedRun, save_run
from tests.reports.fixtures import make_latencies, make_pictures, make_report


def saved(folder: Path, generation_s: float = 10.0) -> str:
    throughput = Throughput(images=256, start_up_s=15.0, generation_s=generation_s)
    report = make_report().model_copy(update={"throughput": throughput})
    save_run(str(folder), SavedRun(report, make_latencies(), make_pictures(report)))
    return str(folder)


def test_report_prints_the_summary_and_writes_the_page_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = saved(tmp_path)
    page = tmp_path / "report.html"
    page.unlink()
    assert main(["report", uri]) == 0
    out = capsys.readouterr().out
    assert "25.6 between first and last shard" in out
    assert out.endswith(f"Page: {page}\n")
    assert b"<h1>shapes</h1>" in page.read_bytes()


def test_report_writes_the_page_where_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = saved(tmp_path / "a")
    out = tmp_path / "page.html"
    assert main(["report", uri, "--out", str(out)]) == 0
    assert out.read_bytes() == (tmp_path / "a" / "report.html").read_bytes()
    assert main(["report", uri, "--out", str(tmp_path / "none" / "page.html")]) == 1
    assert "page.html: its folder is not there" in capsys.readouterr().err


def test_report_of_a_lone_file_prints_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "a")
    alone = tmp_path / "alone" / "baseline.json"
    alone.parent.mkdir()
    alone.write_bytes((tmp_path / "a" / "report.json").read_bytes())
    assert main(["report", str(alone)]) == 0
    assert "Job shapes" in capsys.readouterr().out
    assert list(alone.parent.iterdir()) == [alone]


def test_report_of_an_unfinished_job_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_comparison_fails_on_request_when_something_got_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast, slow = saved(tmp_path / "a"), saved(tmp_path / "b", generation_s=20.0)
    assert main(["report", fast, slow]) == 0
    assert "-50.0 %" in capsys.readouterr().out
    # Scores decide unless others are chosen, and they are the same.
    assert main(["report", fast, slow, "--fail-on-worse"]) == 0
    aimed = ["--fail-on-worse", "--figures", "images_per_s"]
    assert main(["report", fast, slow, *aimed]) == 3
    assert main(["report", fast, slow, *aimed, "--tolerance", "0.6"]) == 0
    assert main(["report", fast, slow, *aimed, "--threshold", "images_per_s=60%"]) == 0
    assert main(["report", slow, fast, *aimed]) == 0
    assert main(["report", fast, fast, slow, *aimed]) == 3
    capsys.readouterr()
    assert main(["report", fast, "--fail-on-worse"]) == 1
    assert "--fail-on-worse: does nothing for one job alone" in capsys.readouterr().err


def _score(value: float, **description: object) -> dict[str, object]:
    return {
        "value": value,
        "uncertainty": 0.1,
        "uncertainty_method": "jackknife",
        "description": {"name": "fid", "extractor": "inception-v3-compat", "k": None} | description,
    }


def test_saved_scores_compare_only_when_their_descriptions_match(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("a", "b", "other")
    a, b, other = (tmp_path / f"{name}.json" for name in names)
    a.write_text(json.dumps([_score(10.0, num_generated=100)]))
    b.write_text(json.dumps([_score(12.0, num_generated=100)]))
    other.write_text(json.dumps([_score(12.0, num_generated=200, resize="clean-bicubic")]))
    assert main(["report", str(a), str(b), "--fail-on-worse"]) == 3
    assert "+20.0 %" in capsys.readouterr().out
    assert main(["report", str(a), str(other), "--fail-on-worse"]) == 6
    out = capsys.readouterr().out
    assert "not comparable" in out
    assert "num_generated: 100 -> 200" in out
    assert "resize: not set -> clean-bicubic" in out


def test_saved_scores_compare_with_those_of_a_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps([_score(12.3)]))
    assert main(["report", saved(tmp_path / "job"), str(path)]) == 0
    assert "The two do not compare in FID" in capsys.readouterr().out


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["fid", "clip_fid"])
def test_scores_of_one_label_are_compared_each_with_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], order: slice
) -> None:
    def write(path: Path, fid: float, clip_fid: float) -> str:
        scores = [_score(fid, extractor="ViT-B-32"), _score(clip_fid, extractor="ViT-L-14")]
        scores[1]["description"]["name"] = "clip_fid"  # type: ignore[index]
        path.write_text(json.dumps(scores[order]))
        return str(path)

    a, b = write(tmp_path / "a.json", 1.0, 5.0), write(tmp_path / "b.json", 9.0, 5.0)
    assert main(["report", a, b, "--fail-on-worse"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if "CLIP-FID (fid)" in line] == ["worse"]
    assert [line.split()[-1] for line in lines if "CLIP-FID (clip_fid)" in line] == ["same"]


def test_damaged_scores_are_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps([{"value": 1}]))
    assert main(["report", str(path), str(path)]) == 1
    assert (
        "not readable as scores (description: is missing; needed a value)"
        in capsys.readouterr().err
    )
