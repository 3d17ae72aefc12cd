from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rdm_batch.cli import main
from rdm_batch.errors import CheckpointError
from rdm_batch.inputs.encoders import encoder_files, load_named_encoder, published_weights
from rdm_batch.models.checkpoint import save_checkpoint
from rdm_batch.models.clip import encoder_digest
from tests.job_kit import write_encoder
from tests.tiny_heads import TINY_RDM, random_weights
from tests.worlds import World, checked


@pytest.fixture
def my_encoder(tmp_path: Path) -> str:
    """Weights as `train clip` writes them, under a name of the user's choice."""
    return str(write_encoder(tmp_path / "my-encoder.bin"))


def _pictures(folder: Path) -> str:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(folder)


def test_a_self_trained_encoder_of_any_name_passes_the_checks_of_a_job(
    world: World, my_encoder: str
) -> None:
    document = world.text_job("a red circle")
    document["database"]["encoder"] = {"name": "my-encoder", "weights": my_encoder}
    digests = checked(document).header.content_digests
    assert digests["encoder"] == encoder_digest(Path(my_encoder))


def test_a_database_is_built_with_a_self_trained_encoder_of_any_name(
    tmp_path: Path, my_encoder: str
) -> None:
    out = tmp_path / "database"
    command = ["database", "build", "--images", _pictures(tmp_path / "pictures"), "--out", str(out)]
    assert main([*command, "--encoder", "my-encoder", "--encoder-weights", my_encoder]) == 0
    recorded = json.loads((out / "database.json").read_text())["encoder"]
    assert recorded["digest"] == encoder_digest(Path(my_encoder))


def test_images_are_judged_with_a_self_trained_encoder_of_any_name(
    tmp_path: Path,
    my_encoder: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "ray", None)  # small sets are judged in this process
    pictures = _pictures(tmp_path / "pictures")
    command = ["evaluate", pictures, "--reference", pictures, "--scores", "fid"]
    assert main([*command, "--extractor", "my-encoder", "--extractor-weights", my_encoder]) == 0
    assert "FID" in capsys.readouterr().out


def test_a_file_of_open_clip_is_read_as_the_model_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "open.safetensors"
    save_file({"logit_scale": torch.zeros(())}, path, {"format": "pt"})
    assert encoder_files("ViT-S-32-alt", str(path)) == ("ViT-S-32-alt", path)
    with pytest.raises(CheckpointError, match="not weights of ViT-S-32-alt"):
        load_named_encoder("ViT-S-32-alt", str(path))


@pytest.mark.parametrize("name", ["my-encoder", "my-clip"])
def test_a_file_that_is_no_encoder_of_either_kind_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"logit_scale": torch.zeros(())}, path)
    with pytest.raises(CheckpointError, match=r"does not say .* open_clip has no model") as caught:
        encoder_files(name, str(path))
    assert str(path) in str(caught.value)
    assert str(caught.value).startswith(f"encoder {name}: ")


def test_the_weights_of_a_head_are_no_encoder(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_checkpoint(path, TINY_RDM, random_weights(TINY_RDM))
    with pytest.raises(CheckpointError, match="not an image and text encoder"):
        encoder_files("my-encoder", str(path))


def test_published_weights_come_with_digest_and_address() -> None:
    text = published_weights("ViT-B-32")
    digest = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    assert f"openai (SHA-256 {digest}) from https://" in text
    assert "(SHA-256 begins d867053b)" in text
    assert "others" in text


def test_weights_on_a_hub_alone_are_named_too() -> None:
    assert "huggingface.co/" in published_weights("ViT-SO400M-14-SigLIP")


def test_an_unknown_architecture_has_none() -> None:
    assert published_weights("tiny-clip") == ""


@pytest.mark.parametrize("weights", [None, "/nowhere/ViT-B-32.pt"])
def test_missing_weights_of_an_encoder_say_where_people_get_them(weights: str | None) -> None:
    with pytest.raises(CheckpointError, match=r"SHA-256 40d36571.* from https://openaipublic"):
        encoder_files("ViT-B-32", weights)
