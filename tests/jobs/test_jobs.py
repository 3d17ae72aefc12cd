from __future__ import annotations

from pathlib import Path

import pytest

from rdm_batch.generation.plan import plan_shards
from rdm_batch.run import main
from rdm_batch.specs.load import load_job

JOBS = Path(__file__).parents[2] / "jobs"
FILES = [
    path for path in sorted(JOBS.glob("*.yaml")) if not path.name.startswith(("fig_", "nightly"))
]
"""Single jobs; sweeps and suites have tests of their own."""


def test_the_promised_examples_are_there() -> None:
    assert {"quickstart.yaml", "shapes50k.yaml", "in256_cfg.yaml"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_job_loads_and_plans(path: Path) -> None:
    spec = load_job(path)
    shards = plan_shards(spec)
    assert sum(shard.num_samples for shard in shards) == spec.sampling.num_samples
    assert spec.output.uri.startswith("out/")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_job_says_what_it_is_for(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_the_published_job_is_the_one_promised() -> None:
    spec = load_job(JOBS / "in256_cfg.yaml")
    assert spec.sampling.guidance_scale == 2.0
    assert spec.sampling.num_samples == 50_000
    assert spec.conditioning.mode == "unconditional"
    assert spec.conditioning.top_m == 0.01


def test_the_published_job_dry_runs_without_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(JOBS / "in256_cfg.yaml"), "--dry-run"]) == 3
    printed = capsys.readouterr().out
    assert printed.startswith(f"{JOBS / 'in256_cfg.yaml'}: not ready to run, 4 problems\n")
    assert "50,000 in 196 shards of up to 256" in printed
    assert "782 batches of up to 64" in printed
    assert "200 network evaluations a batch (100 steps, conditional and uncond" in printed
    for missing in (
        "checkpoints/rdm/imagenet/model.ckpt: does not exist",
        "databases/openimages: holds no database.json",
        "references/VIRTUAL_imagenet256_labeled.npz: does not exist",
        "checkpoints/weights-inception-2015-12-05-6726825d.pth does not exist",
    ):
        assert f"{tmp_path}/{missing}" in printed
    assert list(tmp_path.iterdir()) == []
