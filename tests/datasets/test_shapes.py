import hashlib

import numpy as np
import pytest

from rdm_batch.datasets import shapes
from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.datasets.source import ImageSource
from rdm_batch.errors import SpecError


def test_source_follows_the_protocol() -> None:
    source: ImageSource = ShapesSource("database", 3)
    assert isinstance(source, ImageSource)
    assert len(list(iter(source[i] for i in range(len(source))))) == 3


def test_same_index_gives_same_item_whatever_the_count() -> None:
    small, large = ShapesSource("train", 8)[5], ShapesSource("train", 50_000)[5]
    assert np.array_equal(small.image, large.image)
    assert (small.item_id, small.caption, small.attributes) == (
        large.item_id,
        large.caption,
        large.attributes,
    )


def test_pixels_never_change() -> None:
    source = ShapesSource("held_out", 64)
    digest = hashlib.sha256(b"".join(source[i].image.tobytes() for i in range(64)))
    assert digest.hexdigest() == PIXELS_DIGEST, "raise the world's version and retrain"


def test_subsets_share_no_picture() -> None:
    subsets = ("train", "database", "reference", "held_out", "captions", "style")
    pictures = [ShapesSource(name, 200)[i].image.tobytes() for name in subsets for i in range(200)]
    assert len(set(pictures)) == len(pictures)


def test_every_attribute_value_occurs() -> None:
    items = [ShapesSource("database", 600)[i] for i in range(600)]
    expected = {
        "shape": set(shapes.SHAPES),
        "color": set(shapes.COLORS),
        "style": set(shapes.STYLES),
        "size": set(shapes.SIZES),
        "position": set(shapes.POSITIONS),
        "background": set(shapes.BACKGROUNDS),
    }
    for name, values in expected.items():
        assert {item.attributes[name] for item in items} == values


@pytest.mark.parametrize("subset", ["train", "reference"])
def test_held_out_pairs_never_occur_in_training(subset: str) -> None:
    source = ShapesSource(subset, 1_000)
    pairs = {(source[i].attributes["shape"], source[i].attributes["color"]) for i in range(1_000)}
    assert pairs.isdisjoint(shapes.HELD_OUT_PAIRS)
    assert len(pairs) == 6 * 8 - len(shapes.HELD_OUT_PAIRS)


def test_chosen_shapes_are_all_that_occur() -> None:
    source = ShapesSource("database", 60, shapes=["star", "heart"])
    assert {source[i].attributes["shape"] for i in range(60)} == {"star", "heart"}
    with pytest.raises(SpecError, match="shapes cube"):
        ShapesSource("database", 60, shapes=["cube"])


def test_style_database_holds_only_its_style() -> None:
    source = ShapesSource("style", 50, styles=["dotted"])
    assert {source[i].attributes["style"] for i in range(50)} == {"dotted"}


@pytest.mark.parametrize("style", shapes.STYLES)
@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_picture_shows_its_colors(shape: str, style: str) -> None:
    attributes = {
        "shape": shape,
        "color": "red",
        "style": style,
        "size": "large",
        "position": "center",
        "background": "white",
    }
    pixels = shapes.draw(attributes).reshape(-1, 3).astype(int)
    red = (np.abs(pixels - shapes.COLORS["red"]).max(1) < 60).sum()
    white = (np.abs(pixels - shapes.BACKGROUNDS["white"]).sum(1) == 0).sum()
    assert red > 40
    assert white > 200


def test_position_moves_the_shape() -> None:
    base = {"shape": "circle", "color": "red", "style": "filled", "background": "white"}

    def center(position: str) -> tuple[float, float]:
        image = shapes.draw({**base, "size": "small", "position": position}).astype(int)
        rows, columns = np.nonzero(np.abs(image - 244).sum(2) > 100)
        return float(rows.mean()), float(columns.mean())

    assert center("center") == pytest.approx((15.5, 15.5))
    top, left = center("top left")
    assert top < 11
    assert left < 11
    assert center("bottom right") == pytest.approx((31 - top, 31 - left))


def test_caption_names_every_attribute() -> None:
    item = ShapesSource("held_out", 1)[0]
    caption = shapes.describe(item.attributes)
    for name, value in item.attributes.items():
        assert ("outlined" if (name, value) == ("style", "outline") else value) in caption


def test_index_outside_raises() -> None:
    with pytest.raises(IndexError, match="asked for 4"):
        ShapesSource("train", 4)[4]


@pytest.mark.parametrize(
    ("subset", "count", "styles", "message"),
    [
        ("validation", 1, None, "no subset 'validation'"),
        ("train", 0, None, "count 0"),
        ("style", 5, ["striped"], "styles striped"),
        ("style", 5, [], "styles"),
    ],
)
def test_wrong_source_is_refused(
    subset: str, count: int, styles: list[str] | None, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        ShapesSource(subset, count, styles)


PIXELS_DIGEST = "ea40b24b0966d76b8c14b58c2b077fc69c6b5b6efad31fdd9d100d03406a4de7"
