from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rdm_batch.cli import main
from rdm_batch.evaluation.features import extract_part
from rdm_batch.inputs.image_sets import ImagePart, ImageSet
from rdm_batch.metrics.clip_score import clip_scores
from rdm_batch.metrics.features import FeatureExtractor, FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.models.clip import load_encoder
from rdm_batch.storage.manifest import SampleSetHeader
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.table import make_table
from tests.job_kit import write_encoder
from tests.limits import largest_file
from tests.tolerances import NETWORK_REL


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
    assert "CLIP-FID" in printed
    assert "num_generated 25" in printed
    first = json.loads(scores.read_text())
    assert [score["description"]["name"] for score in first] == names
    assert first[1]["description"]["k"] == 4

    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    assert main([*command, "--k", "4", "--json", str(scores)]) == 0
    assert json.loads(scores.read_text()) == first
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")} == kept


def test_the_command_reads_a_saved_reference_once(
    tmp_path: Path, extractor: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, reference = _folder(tmp_path / "a", 25, 0), str(tmp_path / "ref.npz")
    assert main(["reference", "build", samples, "--out", reference, *extractor]) == 0
    read: list[Path] = []
    load = ReferenceStatistics.load

    def noted(path: Path) -> ReferenceStatistics:
        read.append(path)
        return load(path)

    monkeypatch.setattr(ReferenceStatistics, "load", noted)
    command = ["evaluate", samples, "--reference", reference, "--scores", "fid", *extractor]
    assert main([*command, "--page", str(tmp_path / "page.html")]) == 0
    assert read == [Path(reference)]


def test_an_evaluation_whose_disk_is_full_fails_with_one_error_and_goes_on_after(
    tmp_path: Path, extractor: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, images = _folder(tmp_path / "a", 25, 0), _folder(tmp_path / "b", 30, 1)
    page, scores = tmp_path / "page.html", tmp_path / "scores.json"
    command = ["evaluate", samples, "--reference", images, "--scores", "fid", *extractor]
    command += ["--page", str(page), "--json", str(scores)]
    for limit, what in ((500, ".npz"), (5_000, "page.html")):
        capsys.readouterr()
        with largest_file(limit):
            assert main(command) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert what in error
        assert not page.exists()
        assert [path.name for path in tmp_path.rglob("*.partial")] == []
    first = scores.read_bytes()
    page.write_text("a page")
    with largest_file(5_000):
        assert main(command) == 1
    assert page.read_text() == "a page"
    assert main(command) == 0
    assert scores.read_bytes() == first
    assert page.read_text().startswith("<!doctype html>")


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


def test_an_interrupted_extraction_goes_on_where_it_was(
    tmp_path: Path, extractor: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdm_batch.inputs.image_sets.PART_IMAGES", 10)
    extracted: list[tuple[str, int]] = []

    def extract_or_stop(images: ImageSet, part: ImagePart, used: FeatureExtractor) -> FeatureSet:
        if len(extracted) == 2:
            raise KeyboardInterrupt
        extracted.append((images.uri, part.number))
        return extract_part(images, part, used)

    samples, images = _folder(tmp_path / "a", 25, 0), _folder(tmp_path / "b", 30, 1)
    command = ["evaluate", samples, "--reference", images, "--scores", "fid", *extractor]
    with monkeypatch.context() as patch:
        patch.setattr("rdm_batch.evaluation.extraction.extract_part", extract_or_stop)
        assert main(command) == 130
    assert extracted == [(samples, 0), (samples, 1)]

    def extract(images: ImageSet, part: ImagePart, used: FeatureExtractor) -> FeatureSet:
        extracted.append((images.uri, part.number))
        return extract_part(images, part, used)

    monkeypatch.setattr("rdm_batch.evaluation.extraction.extract_part", extract)
    assert main(command) == 0
    assert extracted == [(samples, 0), (samples, 1), (samples, 2), *((images, n) for n in range(3))]


def test_an_open_clip_model_judges_pictures_and_prompts(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt", load_weights=False)
    weights = tmp_path / "vit.pt"
    torch.save(model.state_dict(), weights)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    header = SampleSetHeader(
        spec={}, digest="0" * 64, seed=1, num_samples=12, shard_size=12, image_size=16
    )
    made = SampleSet.create_or_resume(str(tmp_path / "set"), header)
    table = make_table(
        sample_indices=np.arange(12),
        images=[encode_png(image) for image in pixels],
        seed=1,
        prompts=["a red circle", "a photograph of a dog"] * 6,
    )
    made.commit_shard(0, table)
    made.finish()
    out = tmp_path / "scores.json"
    command = ["evaluate", made.uri, "--reference", _folder(tmp_path / "b", 15, 1)]
    command += ["--extractor", "ViT-S-32-alt", "--extractor-weights", str(weights)]
    command += ["--scores", "fid", "clip_fid", "clip_score", "precision", "--json", str(out)]
    assert main(command) == 0
    fid, clip_fid, clip_score, precision = json.loads(out.read_text())
    assert fid["value"] == clip_fid["value"] > 0
    assert 0 <= precision["value"] <= 1
    with torch.no_grad():
        texts = model.eval().encode_text(
            open_clip.get_tokenizer("ViT-S-32-alt")(["a red circle", "a photograph of a dog"])
        )
    encoder = load_encoder("ViT-S-32-alt", weights)
    rows = encoder.encode_images(list(pixels))
    expected = clip_scores(rows, texts.numpy()[np.arange(12) % 2]).mean()
    assert clip_score["value"] == pytest.approx(expected, rel=NETWORK_REL, abs=1e-4)
    assert clip_score["description"]["extractor"] == "ViT-S-32-alt"


def test_missing_weights_name_the_file_its_digest_and_where_people_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = _folder(tmp_path / "a", 5, 0)
    command = ["evaluate", samples, "--reference", samples, "--extractor", "inception-v3-compat"]
    assert main([*command, "--extractor-weights", str(tmp_path / "absent.pth")]) == 1
    error = capsys.readouterr().err
    assert "absent.pth does not exist" in error
    assert "weights-inception-2015-12-05-6726825d.pth (SHA-256 begins 6726825d)" in error
    assert "https://github.com/toshas/torch-fidelity" in error
