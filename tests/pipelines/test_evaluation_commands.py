from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.cli import main
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.storage.png import encode_png
from tests.job_kit import write_encoder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))
    # Small sets are judged in this process.
    monkeypatch.setitem(sys.modules, "ray", None)
    return tmp_path / "cache"


@pytest.fixture
def extractor(tmp_path: Path) -> list[str]:
    weights = write_encoder(tmp_path / "clip.safetensors")
    return ["--extractor", "tiny-clip", "--extractor-weights", str(weights)]


def _folder(root: Path, count: int, seed: int) -> str:
    root.mkdir()
    images = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        (root / f"{index:03d}.png").write_bytes(encode_png(image))
    return str(root)


def test_images_are_scored_against_a_built_reference(
    tmp_path: Path, extractor: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, images = _folder(tmp_path / "a", 25, 0), _folder(tmp_path / "b", 30, 1)
    reference, scores = str(tmp_path / "ref.npz"), tmp_path / "scores.json"
    assert main(["reference", "build", images, "--out", reference, *extractor]) == 0
    assert ReferenceStatistics.load(Path(reference)).gaussian("embedding").count == 30
    names = ["fid", "recall", "density", "kid"]
    command = ["evaluate", samples, "--reference", reference, "--scores", *names, *extractor]
    assert main([*command, "--k", "4", "--json", str(scores)]) == 0
    printed = capsys.readouterr().out
    assert "FID" in printed
    assert "num_generated 25" in printed
    first = json.loads(scores.read_text())
    assert [score["description"]["name"] for score in first] == names
    assert first[1]["description"]["k"] == 4

    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    assert main([*command, "--k", "4", "--json", str(scores)]) == 0
    assert json.loads(scores.read_text()) == first
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")} == kept


def test_both_sides_may_be_images(tmp_path: Path, extractor: list[str]) -> None:
    samples, images = _folder(tmp_path / "a", 25, 0), _folder(tmp_path / "b", 30, 1)
    out = tmp_path / "scores.json"
    command = ["evaluate", samples, "--reference", images, "--scores", "fid", *extractor]
    assert main([*command, "--json", str(out)]) == 0
    (score,) = json.loads(out.read_text())
    assert (score["description"]["num_generated"], score["description"]["num_reference"]) == (
        25,
        30,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scores", "fidd"], "'fidd' is not a score; needed one of fid"),
        (["--scores", "is"], "which tiny-clip does not have"),
        (["--scores", "clip_score"], "images alone; needed a sample set"),
        (["--k", "25"], "25 samples; needed more than k = 25"),
        (["--k", "0"], "k is 0; needed 1 or more"),
        (["--resize", "clean-bicubic"], "an image-text encoder has its own"),
        (["--reference", "s3://name:secret@bucket/a"], "credentials"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(
    tmp_path: Path,
    extractor: list[str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    samples, images = _folder(tmp_path / "a", 25, 0), _folder(tmp_path / "b", 30, 1)
    command = ["evaluate", samples, "--reference", images, *extractor, *arguments]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error


def test_a_reference_is_never_overwritten(
    tmp_path: Path, extractor: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = _folder(tmp_path / "b", 30, 1), tmp_path / "ref.npz"
    out.write_text("mine")
    assert main(["reference", "build", images, "--out", str(out), *extractor]) == 1
    assert "exists already" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_a_reference_needs_its_suffix(
    tmp_path: Path, extractor: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    images = _folder(tmp_path / "b", 30, 1)
    assert main(["reference", "build", images, "--out", str(tmp_path / "ref"), *extractor]) == 1
    assert "a name that ends in .npz" in capsys.readouterr().err
