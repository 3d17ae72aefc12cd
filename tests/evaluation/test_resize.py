"""Photographs of several sizes: refused before any work, or brought to one and said so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.cli import main
from rdm_batch.inputs.image_sets import SourceImages
from rdm_batch.storage.png import encode_png
from tests.job_kit import write_encoder
from tests.worlds import World, assert_says, checked, problem_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photographs(tmp_path: Path) -> str:
    root = tmp_path / "photographs"
    root.mkdir()
    draw = np.random.default_rng(0).integers
    for index in range(20):
        image = draw(0, 256, (30 + index % 3, 40 - index % 2, 3), dtype=np.uint8)
        (root / f"{index:02d}.png").write_bytes(encode_png(image))
    return str(root)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    weights = write_encoder(tmp_path / "clip.safetensors")
    return ["--extractor", "tiny-clip", "--extractor-weights", str(weights), "--address", "none"]


def _description(path: Path) -> dict[str, object]:
    (score,) = json.loads(path.read_text())
    found: dict[str, object] = score["description"]
    return found


def test_several_sizes_are_refused_unless_a_recipe_brings_them_to_one(
    photographs: str,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "scores.json"
    evaluate = ["evaluate", "shapes:reference:20", "--reference", photographs, "--scores", "fid"]
    evaluate += [*command, "--json", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(SourceImages, "batches", lambda *_: pytest.fail("work began"))
        assert main(evaluate) == 1
    assert_says(capsys.readouterr().err, "images of several sizes", "--resize-to")
    assert main([*evaluate, "--resize-to", "32"]) == 0
    assert _description(out)["images"] == "32 x 32, center crop, bicubic"
    first = _description(out)["reference"]
    assert main([*evaluate, "--resize-to", "32", "--resize-filter", "box"]) == 0
    assert _description(out)["images"] == "32 x 32, center crop, box"
    assert _description(out)["reference"] != first


def test_saved_statistics_carry_their_recipe(
    photographs: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, out = str(tmp_path / "ref.npz"), tmp_path / "scores.json"
    build = ["reference", "build", photographs, "--out", reference, *command]
    assert main(build) == 1
    assert main([*build, "--resize-to", "32"]) == 0
    evaluate = ["evaluate", "shapes:reference:20", "--reference", reference, "--scores", "fid"]
    evaluate += [*command, "--json", str(out)]
    assert main(evaluate) == 0
    assert _description(out)["images"] == "32 x 32, center crop, bicubic"
    assert main([*evaluate, "--resize-to", "32"]) == 0
    capsys.readouterr()
    assert main([*evaluate, "--resize-to", "33"]) == 1
    assert_says(
        capsys.readouterr().err, photographs, "32 x 32, center crop", "33 x 33, center crop"
    )


def test_a_job_is_told_before_it_starts(world: World, photographs: str) -> None:
    document = world.job(evaluation__reference=photographs)
    assert_says(problem_of(document), photographs, "images of several sizes", "evaluation.resize")
    document["evaluation"]["resize"] = {"size": 16}
    job = checked(document)
    assert job.references is not None
    images = job.references.reference.images
    assert images is not None
    assert next(images.batches(images.parts[0]))[1].shape == (20, 16, 16, 3)
    document["evaluation"]["resize"] = {"size": 16, "crop": "centre"}
    with pytest.raises(Exception, match=r"evaluation.resize.crop: is 'centre'; needed 'center'"):
        checked(document)


def test_scores_that_could_not_be_written_are_refused_before_the_work(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SourceImages, "batches", lambda *_: pytest.fail("work began"))
    evaluate = ["evaluate", "shapes:reference:9", "--reference", "shapes:held_out:9", *command]
    for option, target in (("--json", "/nowhere/a.json"), ("--page", str(tmp_path))):
        assert main([*evaluate, "--scores", "fid", option, target]) == 1
        assert capsys.readouterr().err.startswith(f"error: {target}: ")
    assert main(["reference", "build", "shapes:reference:9", "--out", "/proc/x/a.npz", *command])
    assert capsys.readouterr().err.startswith("error: /proc/x")
