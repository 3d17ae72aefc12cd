import json
from pathlib import Path

import pytest
import torch
import yaml

from rdm_batch.cli import main
from rdm_batch.errors import DatabaseError, InvalidJobError, SpecError
from rdm_batch.inputs.encoders import load_named_encoder
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.specs.training import TRAININGS, load_training
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.train import train

OPTIMIZATION = {
    "num_steps": 3,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "checkpoint_every": 2,
    "seed": 1,
}
AUTOENCODER = {
    "train": "autoencoder",
    "images": "shapes:train:20",
    "architecture": {
        "kind": "vq",
        "channels": 4,
        "channel_mult": [1, 1, 2],
        "num_res_blocks": 1,
        "resolution": 32,
        "latent_channels": 3,
        "embed_dim": 3,
        "norm_groups": 2,
        "codebook_size": 16,
    },
    "quantize_from": 1,
    "revive_until": 2,
    "optimization": OPTIMIZATION,
}
CLIP = {
    "train": "clip",
    "name": "tiny-clip",
    "images": "shapes:captions:20",
    "sizes": {"embed_dim": 8, "vision_width": 4, "text_width": 16, "head_width": 8},
    "optimization": OPTIMIZATION,
}


def write(folder: Path, settings: dict[str, object]) -> Path:
    path = folder / f"{settings['train']}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def rdm_settings(autoencoder: Path) -> dict[str, object]:
    return {
        "train": "rdm",
        "images": "shapes:train:20",
        "autoencoder": str(autoencoder),
        "encoder": "package://shapes/clip.safetensors",
        "database": "package://shapes/database",
        "preview_steps": 2,
        "unet": {
            "latent_channels": 3,
            "model_channels": 8,
            "channel_mult": [1, 2],
            "num_res_blocks": 1,
            "attention_downsampling": [2],
            "head_channels": 8,
            "context_dim": 64,
            "norm_groups": 4,
        },
        "optimization": OPTIMIZATION,
    }


def test_encoder_trains_to_a_usable_file(tmp_path: Path) -> None:
    weights = train("clip", write(tmp_path, CLIP), tmp_path / "out")
    encoder = load_named_encoder("tiny-clip", str(weights))
    assert encoder.encode_texts(["a red circle"]).shape == (1, 8)


def test_autoencoder_then_head_train_to_a_usable_file(tmp_path: Path) -> None:
    autoencoder = train("autoencoder", write(tmp_path, AUTOENCODER), tmp_path / "first")
    config = write(tmp_path, rdm_settings(autoencoder))
    weights = train("rdm", config, tmp_path / "second")
    checkpoint = load_checkpoint(weights)
    assert checkpoint.architecture.image_size == 32
    made = {path.name for path in (tmp_path / "second").iterdir()}
    assert made == {
        "checkpoint.pt",
        "losses.png",
        "samples-000002.png",
        "samples-000003.png",
        "training.json",
        "weights.safetensors",
    }
    record = json.loads((tmp_path / "second" / "training.json").read_text())
    assert (record["steps"], record["images"]) == (3, 20)


def parametric(settings: dict[str, object], kind: str) -> dict[str, object]:
    left_out = ("encoder", "database")
    kept = {name: value for name, value in settings.items() if name not in left_out}
    return kept | {"train": kind}


@pytest.mark.parametrize("kind", ["rarm", "ar", "ldm"])
def test_other_heads_train_to_a_usable_file(tmp_path: Path, kind: str) -> None:
    autoencoder = train("autoencoder", write(tmp_path, AUTOENCODER), tmp_path / "first")
    settings = rdm_settings(autoencoder)
    if kind != "ldm":
        left_out = ("unet", "preview_steps")
        settings = {name: value for name, value in settings.items() if name not in left_out}
        settings["transformer"] = {
            "depth": 1, "num_heads": 2, "head_channels": 4, "context_dim": 64,
        }  # fmt: skip
    settings = settings | {"train": kind} if kind == "rarm" else parametric(settings, kind)
    weights = train(kind, write(tmp_path, settings), tmp_path / "second")
    checkpoint = load_checkpoint(weights)
    assert checkpoint.architecture.image_size == 32
    assert checkpoint.architecture.parametric == (kind != "rarm")
    assert (tmp_path / "second" / "samples-000003.png").exists()


def test_gaussian_autoencoder_trains_and_is_refused_where_codes_are_needed(
    tmp_path: Path,
) -> None:
    architecture = dict(AUTOENCODER["architecture"]) | {"kind": "kl"}  # type: ignore[call-overload]
    del architecture["codebook_size"]
    settings = AUTOENCODER | {"architecture": architecture}
    autoencoder = train("autoencoder", write(tmp_path, settings), tmp_path / "first")
    ldm = parametric(rdm_settings(autoencoder), "ldm")
    head = load_checkpoint(train("ldm", write(tmp_path, ldm), tmp_path / "second"))
    assert head.architecture.autoencoder.kind == "kl"
    del ldm["unet"], ldm["preview_steps"]
    ldm["transformer"] = {"depth": 1, "num_heads": 2, "head_channels": 4, "context_dim": 64}
    with pytest.raises(SpecError, match="has no codebook"):
        train("ar", write(tmp_path, ldm | {"train": "ar"}), tmp_path / "third")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_gpu_that_is_not_there_is_refused_first(tmp_path: Path) -> None:
    settings = AUTOENCODER | {"optimization": OPTIMIZATION | {"device": "cuda"}}
    with pytest.raises(SpecError, match="no GPU is usable"):
        train("autoencoder", write(tmp_path, settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_finished_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    config = write(tmp_path, AUTOENCODER)
    weights = train("autoencoder", config, tmp_path / "out")
    before = weights.read_bytes()
    assert train("autoencoder", config, tmp_path / "out", resume=True).read_bytes() == before


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    config = write(tmp_path, AUTOENCODER)
    first = train("autoencoder", config, tmp_path / "a").read_bytes()
    assert train("autoencoder", config, tmp_path / "b").read_bytes() == first


def test_database_of_another_encoder_is_refused(tmp_path: Path) -> None:
    autoencoder = train("autoencoder", write(tmp_path, AUTOENCODER), tmp_path / "first")
    encoder = train("clip", write(tmp_path, CLIP), tmp_path / "encoder")
    settings = rdm_settings(autoencoder) | {"encoder": str(encoder)}
    with pytest.raises(DatabaseError, match="the encoder of this training"):
        train("rdm", write(tmp_path, settings), tmp_path / "second")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"k_train": 21}, "k_train 21"), ({"neighbors_found": 9_000}, "neighbors_found 9000")],
)
def test_neighbors_that_cannot_be_found_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    autoencoder = train("autoencoder", write(tmp_path, AUTOENCODER), tmp_path / "first")
    with pytest.raises(SpecError, match=message):
        train("rdm", write(tmp_path, rdm_settings(autoencoder) | change), tmp_path / "second")


def test_all_wrong_settings_are_listed(tmp_path: Path) -> None:
    wrong = CLIP | {"max_logit_scale": 0, "optimization": OPTIMIZATION | {"batchsize": 3}}
    with pytest.raises(InvalidJobError) as caught:
        load_training(write(tmp_path, wrong), "clip")
    assert [problem.where for problem in caught.value.problems] == [
        "optimization.batchsize",
        "max_logit_scale",
    ]


def test_settings_of_another_command_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="asks to train clip; needed train: autoencoder"):
        load_training(write(tmp_path, CLIP), "autoencoder")


def test_command_reports_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "clip", "--config", str(tmp_path / "no.yaml"), "--out", str(tmp_path)]
    assert main(arguments) == 1
    assert "no.yaml: there is no such file" in capsys.readouterr().err


CONFIGS = {
    path.stem: yaml.safe_load(path.read_text())["train"]
    for path in local_path("package://shapes/configs").glob("*.yaml")
}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_shipped_settings_load(name: str) -> None:
    path = local_path("package://shapes/configs") / f"{name}.yaml"
    assert load_training(path, CONFIGS[name]).train == CONFIGS[name]


def test_every_training_has_shipped_settings() -> None:
    assert set(CONFIGS.values()) == set(TRAININGS)


def test_a_network_that_does_not_fit_the_autoencoder_is_one_clear_error(tmp_path: Path) -> None:
    autoencoder = train("autoencoder", write(tmp_path, AUTOENCODER), tmp_path / "autoencoder")
    settings = rdm_settings(autoencoder)
    unet = settings["unet"]
    assert isinstance(unet, dict)
    unet["latent_channels"] = 5
    with pytest.raises(SpecError, match=r"latent_channels is 5 but autoencoder.embed_dim is 3"):
        train("rdm", write(tmp_path, settings), tmp_path / "rdm")
