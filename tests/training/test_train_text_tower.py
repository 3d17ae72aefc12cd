"""Training an encoder's text tower on, with the image tower as it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.errors import CheckpointError, InvalidJobError, SpecError
from rdm_batch.models.clip import load_clip, load_encoder
from rdm_batch.specs.training import Optimization, load_training
from rdm_batch.training.images import TrainingImages
from rdm_batch.training.loop import TrainingLoop
from rdm_batch.training.text_tower import TextTowerObjective
from rdm_batch.training.train import train

NUM_IMAGES = 24
IMAGES = f"shapes:captions:{NUM_IMAGES}"
SIZES = {"embed_dim": 8, "vision_width": 4, "text_width": 16, "head_width": 8}
OPTIMIZATION = {"num_steps": 40, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 2}
FIRST = {"train": "clip", "name": "tiny", "images": IMAGES, "sizes": SIZES}
SECOND = {"train": "clip", "name": "tiny", "images": IMAGES, "alignment_weight": 10}


def write(path: Path, settings: dict[str, object]) -> Path:
    path.write_text(yaml.safe_dump({"optimization": OPTIMIZATION} | settings))
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    return train("clip", write(folder / "clip.yaml", FIRST), folder / "out")


@pytest.fixture(scope="module")
def images() -> TrainingImages:
    return TrainingImages.load(ShapesSource("captions", NUM_IMAGES), 32)


def make_objective(images: TrainingImages, encoder: Path, weight: float) -> TextTowerObjective:
    network, architecture = load_clip(encoder)
    return TextTowerObjective(images, network, architecture, 30.0, weight)


def distances(path: Path) -> float:
    source = ShapesSource("captions", NUM_IMAGES)
    items = [source[index] for index in range(NUM_IMAGES)]
    encoder = load_encoder(path)
    image = encoder.encode_images([item.image for item in items])
    text = encoder.encode_texts([str(item.caption) for item in items])
    return float(np.square(image - text).mean())


def test_texts_come_nearer_to_images_and_the_image_tower_stays(
    encoder: Path, tmp_path: Path
) -> None:
    config = write(tmp_path / "text.yaml", SECOND | {"image_tower": str(encoder)})
    tuned = train("clip", config, tmp_path / "out")
    before, after = load_file(encoder), load_file(tuned)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert not any(name.startswith("visual.") for name in changed)
    assert "text_projection" in changed
    assert distances(tuned) < 0.5 * distances(encoder)


def test_loss_is_the_contrast_plus_the_weighted_distance(
    encoder: Path, images: TrainingImages
) -> None:
    rows = torch.arange(6)
    loss = make_objective(images, encoder, 3.0).loss(0, rows, torch.Generator()).item()

    source = ShapesSource("captions", NUM_IMAGES)
    network, _ = load_clip(encoder)
    loaded = load_encoder(encoder)
    image = loaded.encode_images([source[index].image for index in range(6)]).astype(np.float64)
    text = loaded.encode_texts([str(source[index].caption) for index in range(6)])
    cosines = (image / np.linalg.norm(image, axis=1, keepdims=True)) @ (
        text / np.linalg.norm(text, axis=1, keepdims=True)
    ).T
    logits = cosines * min(network.logit_scale.exp().item(), 30.0)
    of_images = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    of_texts = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    expected = (of_images.mean() + of_texts.mean()) / 2 + 3.0 * np.square(image - text).mean()
    assert loss == pytest.approx(expected, rel=1e-4)  # float32 against float64


def test_interrupted_run_resumes_to_the_same_weights(
    encoder: Path, images: TrainingImages, tmp_path: Path
) -> None:
    settings = Optimization(**(OPTIMIZATION | {"num_steps": 4}))

    def make_loop(name: str) -> TrainingLoop:
        objective = make_objective(images, encoder, 1.0)
        return TrainingLoop(objective, NUM_IMAGES, settings, tmp_path / name, report=len)

    whole = make_loop("whole.pt").run().state_dict()
    make_loop("parts.pt").run(stop_after=2)
    rest = make_loop("parts.pt")
    rest.resume()
    resumed = rest.run().state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_captions_with_unknown_words_are_refused(encoder: Path, images: TrainingImages) -> None:
    network, architecture = load_clip(encoder)
    fewer = architecture.model_copy(update={"vocabulary": ("a", "red")})
    with pytest.raises(SpecError, match="needed words among a, red"):
        TextTowerObjective(images, network, fewer, 30.0, 1.0)


def test_missing_image_tower_is_named(tmp_path: Path) -> None:
    settings = SECOND | {"image_tower": str(tmp_path / "none.safetensors")}
    with pytest.raises(CheckpointError, match=r"none\.safetensors: does not exist"):
        train("clip", write(tmp_path / "text.yaml", settings), tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SECOND | {"image_tower": "a.safetensors", "sizes": SIZES}, "sizes are those of"),
        (FIRST | {"alignment_weight": 1}, "alignment_weight needs image_tower"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidJobError, match=message):
        load_training(write(tmp_path / "text.yaml", settings), "clip")
