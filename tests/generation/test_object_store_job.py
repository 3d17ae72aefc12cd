"""The quickstart with everything it reads and writes in an object store, over HTTP."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rdm_batch.reports.saved import load_run
from rdm_batch.storage.object_store import local_path, open_store
from rdm_batch.storage.sample_set import SampleSet
from tests.ray_kit import ROOT, run_job
from tests.storage.sets import damage_of

pytestmark = pytest.mark.usefixtures("swift_uri")

FEW = ("--set", "sampling.num_samples=64", "--set", "sampling.num_steps=4")


def copy_assets(uri: str) -> None:
    assets = local_path("package://shapes")
    store = open_store(uri)
    for name in ("database", "rdm.safetensors", "clip.safetensors", "reference.npz"):
        path = assets / name
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            store.write_bytes(file.relative_to(assets).as_posix(), file.read_bytes())


def test_the_quickstart_runs_from_and_into_an_object_store(swift_uri: str, tmp_path: Path) -> None:
    copy_assets(swift_uri)
    stored = (
        *("--set", f"model.checkpoint={swift_uri}/rdm.safetensors"),
        *("--set", f"database.uri={swift_uri}/database"),
        *("--set", f"evaluation.reference={swift_uri}/reference.npz"),
        *("--set", f"output.uri={swift_uri}/out"),
    )
    os.environ["RDM_BATCH_CACHE"] = str(tmp_path / "cache")
    try:
        printed = run_job(ROOT / "jobs" / "quickstart.yaml", "--address", "local", *stored, *FEW)
        again = run_job(ROOT / "jobs" / "quickstart.yaml", "--address", "local", *stored, *FEW)
        local = str(tmp_path / "out")
        run_job(
            ROOT / "jobs" / "quickstart.yaml",
            *("--address", "none", "--set", f"output.uri={local}", "--set", "evaluation=null"),
            *FEW,
        )
    finally:
        del os.environ["RDM_BATCH_CACHE"]
    assert "precision" in printed
    assert "nothing was done" in again
    remote_set = SampleSet.open(f"{swift_uri}/out")
    assert damage_of(remote_set.uri) == []
    assert remote_set.require_complete().num_rows == 64
    assert remote_set.success() == SampleSet.open(local).success()
    report = load_run(f"{swift_uri}/out").report
    assert [score.label for score in report.scores][:4] == [
        "CLIP-FID",
        "precision",
        "recall",
        "novelty to neighbors",
    ]
    saved = [
        open_store(f"{swift_uri}/out").read_bytes(key) for key in ("report.json", "report.html")
    ]
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in b"".join(saved)
