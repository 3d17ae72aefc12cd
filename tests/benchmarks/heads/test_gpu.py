from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.heads import gpu
from benchmarks.heads.gpu import main
from benchmarks.heads.gpu_trials import Trial, trials
from benchmarks.records import read_record
from rdm_batch.errors import RdmBatchError
from rdm_batch.specs.presets import PRESETS

BOTH = ["rdm-imagenet-256", "rarm-imagenet-256"]
_BARE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "ray", "pyarrow", "PIL", "scann", "open_clip", "s3fs", "matplotlib", "jinja2", "scipy"
        }:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import benchmarks.heads.gpu
"""


def test_the_smallest_run_measures_or_explains_every_row(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    main(["--device", "cpu", "--smallest", "--json", str(path)])
    record = read_record(path)
    assert record is not None
    parts = {part.name: part.rows for part in record.parts}
    assert parts.keys() == {f"{name}, shrunk" for name in ("machine", *BOTH)}
    for preset in BOTH:
        tried = [trial for trial in trials(BOTH) if trial.preset == preset]
        rows = parts[f"{preset}, shrunk"]
        assert [row.name for row in rows] == [trial.name for trial in tried]
        for trial, row in zip(tried, rows, strict=True):
            if trial.how == "eager" and trial.precision != "tf32":
                assert row.value is not None, row.details
                assert row.value > 0
            else:
                assert row.details["state"] == "skipped: is for GPUs"
        assert sum(row.ratio is not None for row in rows) >= 1
    assert "predicted from" in path.with_suffix(".md").read_text()


def test_rows_that_no_longer_fit_are_skipped_and_others_that_fail_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        Trial(BOTH[0], "decode", "bfloat16", 64, seconds=0),
        Trial(BOTH[0], "step", "bfloat16", 64, seconds=1e9),
    ]
    monkeypatch.setattr(gpu, "trials", lambda presets: iter(rows))
    monkeypatch.setattr(gpu, "measure_peaks", lambda *_: {"bfloat16": 1.0})

    def fail(self: object, trial: Trial) -> None:
        raise RuntimeError("CUDA error: of some kind\nmore")

    monkeypatch.setattr(gpu.Bench, "images_per_s", fail)
    main(["--device", "cpu", "--json", str(tmp_path / "gpu.json")])
    record = read_record(tmp_path / "gpu.json")
    assert record is not None
    failed, skipped = record.parts[0].rows
    assert failed.details["state"] == "failed: CUDA error: of some kind"
    assert str(skipped.details["state"]).startswith("skipped: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    with pytest.raises(RdmBatchError, match=r"finds no GPU it can use.*--smallest") as caught:
        main([])
    assert "\n" not in str(caught.value)


def test_every_preset_has_rows_and_what_comes_first_fits_into_the_time() -> None:
    assert {trial.preset for trial in trials(list(PRESETS))} == set(PRESETS)
    tried = list(trials(BOTH))
    assert len({(trial.preset, trial.name) for trial in tried}) == len(tried)
    assert sum(trial.seconds for trial in tried if trial.how == "eager") < 8 * 60 / 2
    for trial in tried:
        assert trial.predicted is None or trial.predicted[0] < trial.predicted[1]


def test_it_needs_no_more_than_the_gpu_tests_do() -> None:
    subprocess.run([sys.executable, "-c", _BARE], check=True, timeout=120)
