from pathlib import Path

import numpy as np
import pytest
import torch

from rdm_batch.errors import CheckpointError, SpecError
from rdm_batch.models.clip import WordTokenizer, build_clip, load_encoder, save_clip, split_words
from rdm_batch.specs.networks import ClipArchitecture

ARCHITECTURE = ClipArchitecture(
    name="tiny",
    embed_dim=16,
    vision_width=4,
    text_width=16,
    head_width=8,
    text_layers=1,
    vocabulary=("a", "blue", "circle", "red"),
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "clip.safetensors"
    save_clip(build_clip(ARCHITECTURE), ARCHITECTURE, path)
    return path


def test_saved_encoder_embeds_images_and_texts(weights: Path) -> None:
    encoder = load_encoder(weights)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, np.uint8) for shape in [(32, 32, 3), (50, 70, 3)]]
    assert (encoder.name, encoder.dim, encoder.image_size) == ("tiny", 16, 32)
    assert encoder.encode_images(images).shape == (2, 16)
    assert encoder.encode_texts(["a red circle", "a blue circle."]).shape == (2, 16)
    assert encoder.encode_images([]).shape == (0, 16)


def test_loading_twice_gives_the_same_embeddings_and_digest(weights: Path) -> None:
    first, second = load_encoder(weights), load_encoder(weights)
    assert first.digest == second.digest
    texts = ["a red circle"]
    assert np.array_equal(first.encode_texts(texts), second.encode_texts(texts))


def test_digest_changes_with_the_weights(weights: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_clip(build_clip(ARCHITECTURE), ARCHITECTURE, other)
    assert load_encoder(weights).digest != load_encoder(other).digest


def test_end_mark_has_the_highest_number() -> None:
    rows = WordTokenizer(("a", "red"), 6)(["A red!", "a"])
    assert rows.tolist() == [[3, 1, 2, 4, 0, 0], [3, 1, 4, 0, 0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a red dog", "unknown words: dog"), ("", "0 words"), ("a a a a a a", "6 words")],
)
def test_text_that_cannot_be_encoded_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        WordTokenizer(("a", "red"), 7)([text])


def test_words_ignore_case_and_punctuation() -> None:
    assert split_words("An image of a Circle.") == ["an", "image", "of", "a", "circle"]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: no such file"):
        load_encoder(tmp_path / "gone.safetensors")


def test_damaged_file_is_refused(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        load_encoder(weights)


def test_misshapen_weights_are_refused(weights: Path) -> None:
    wider = ARCHITECTURE.model_copy(update={"embed_dim": 24})
    save_clip(build_clip(ARCHITECTURE), wider, weights)
    with pytest.raises(CheckpointError, match="another architecture"):
        load_encoder(weights)


def test_published_name_needs_a_weights_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights file"):
        load_encoder("RN50")
    with pytest.raises(CheckpointError, match=r"gone\.bin: no such file"):
        load_encoder("RN50", tmp_path / "gone.bin")


def test_unknown_name_suggests_published_ones() -> None:
    with pytest.raises(CheckpointError, match="ViT-B-32"):
        load_encoder("ViT-B/32")


def test_pickled_objects_are_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (marker,))

    path = tmp_path / "weights.pt"
    torch.save({"state_dict": Payload()}, path)
    with pytest.raises(CheckpointError, match="not weights of ViT-S-32-alt"):
        load_encoder("ViT-S-32-alt", path)
    assert not marker.exists()


def test_published_model_loads_from_a_local_file(tmp_path: Path) -> None:
    import open_clip

    model = open_clip.create_model("ViT-S-32-alt", load_weights=False)
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    encoder = load_encoder("ViT-S-32-alt", path)
    image = np.random.default_rng(0).integers(0, 256, (100, 80, 3), np.uint8)
    assert encoder.encode_images([image]).shape == (1, encoder.dim)
    tokens = open_clip.get_tokenizer("ViT-S-32-alt")(["a photo"])
    expected = model.eval().encode_text(tokens).detach().numpy()
    assert np.allclose(encoder.encode_texts(["a photo"]), expected, atol=1e-6)
