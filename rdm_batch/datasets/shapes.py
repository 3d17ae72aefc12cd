"""The shapes world: small captioned pictures drawn from an index.

Each picture shows one shape. What it shows, and every pixel, follows from the index alone,
so that training data, databases, references and prompts exist on every machine without a
download, and whether a generated picture shows what was asked for can be checked.

Only exactly rounded arithmetic (add, multiply, divide, square root) and raw counter-based
random words reach the pixels, so that they agree between machines and numpy releases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64, UInt8

from rdm_batch.datasets.source import ImageItem
from rdm_batch.errors import SpecError

IMAGE_SIZE = 32
SubsetName = Literal["train", "database", "reference", "held_out", "captions", "style"]

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLORS = {
    "red": (224, 32, 32),
    "orange": (255, 144, 0),
    "yellow": (252, 232, 40),
    "green": (24, 168, 64),
    "cyan": (56, 214, 224),
    "blue": (40, 72, 224),
    "purple": (136, 48, 192),
    "pink": (255, 128, 200),
}
STYLES = ("filled", "outline", "hatched", "dotted")
SIZES = {"small": 9.0, "medium": 10.75, "large": 12.5}  # distance center to corner, in pixels
POSITIONS = {
    "center": (0, 0),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
BACKGROUNDS = {
    "white": (244, 244, 244),
    "gray": (140, 140, 144),
    "black": (16, 16, 20),
    "brown": (88, 56, 32),
}

# Pairs that never occur in the training set and its reference, but do in every other
# subset: what a head makes of them, it has from its neighbors alone.
HELD_OUT_PAIRS = (
    ("circle", "green"),
    ("square", "pink"),
    ("triangle", "cyan"),
    ("star", "purple"),
    ("cross", "red"),
    ("heart", "blue"),
)

_SUBSET_SPACING = 100_000_000
_WITHOUT_HELD_OUT_PAIRS = ("train", "reference")
_WORLD_KEY = 0x5AA9E5_0001  # the last digits are the version: any change of pixels raises them
_ARTICLES = {True: "an", False: "a"}
_STYLE_WORDS = {"outline": "outlined"}
_PLACES = {name: f"at the {name}" for name in POSITIONS} | {"center": "in the center"}
# Repeated entries are drawn more often.
_TEMPLATES = (
    "{a_size} {size} {color} {shape}, {style}, {place} on a {background} background",
    "{a_size} {size} {color} {shape}, {style}, {place} on a {background} background",
    "{a_style} {style} {color} {shape}, {size}, {place} on {background}",
    "{a_style} {style} {color} {shape} on a {background} background",
    "{a_color} {color} {shape} {place}",
    "{a_color} {color} {shape}",
    "{a_style} {style} {color} {shape}",
    "{a_style} {style} {shape}",
    "An image of {a_color} {color} {shape}.",
    "An image of a {shape}.",
)
_LINE_WIDTH = {"outline": 2.0, "hatched": 1.1, "dotted": 1.1}
_CELL_ROWS, _CELL_COLUMNS = np.indices((IMAGE_SIZE, IMAGE_SIZE)) % 4
# What fills a shape inside its line: cells of 4 x 4 pixels, fixed to the picture.
_PATTERNS = {
    "outline": np.zeros((IMAGE_SIZE, IMAGE_SIZE)),
    "hatched": ((_CELL_ROWS + _CELL_COLUMNS) % 4 < 2).astype(np.float64),
    "dotted": ((_CELL_ROWS // 2 == 0) & (_CELL_COLUMNS // 2 == 0)).astype(np.float64),
}
_AXIS = (np.arange(IMAGE_SIZE) + 0.5) - IMAGE_SIZE / 2
_GRID_Y, _GRID_X = np.meshgrid(_AXIS, _AXIS, indexing="ij")


def _corner_tables() -> dict[str, Float64[np.ndarray, "corner 2"]]:
    """Compute each polygon's corners (x right, y down) at size one.

    Rounding to six digits removes what the math libraries of two machines may differ in.
    """

    def circle_point(turn: float, radius: float) -> tuple[float, float]:
        return (radius * math.sin(2 * math.pi * turn), -radius * math.cos(2 * math.pi * turn))

    def heart_point(turn: float) -> tuple[float, float]:
        angle = 2 * math.pi * turn
        x = 16 * math.sin(angle) ** 3
        y = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle)
        return (x / 16.5, -(y - math.cos(4 * angle) + 2.5) / 16.5)

    arm = 0.34
    tables = {
        "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
        "triangle": [(0.0, -1.0), (1.0, 0.78), (-1.0, 0.78)],
        "star": [circle_point(i / 10, 1.08 if i % 2 == 0 else 0.48) for i in range(10)],
        "cross": [
            *((-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm)),
            *((arm, 1.0), (-arm, 1.0), (-arm, arm), (-1.0, arm), (-1.0, -arm), (-arm, -arm)),
        ],
        "heart": [heart_point((i + 0.5) / 28) for i in range(28)],
    }
    return {name: np.round(np.array(corners), 6) for name, corners in tables.items()}


_CORNERS = _corner_tables()


class ShapesSource:
    """Draw the pictures of one subset of the shapes world.

    Subsets are disjoint ranges of one endless sequence of pictures:

    - ``train``: what heads and autoencoders learn from (X).
    - ``database``: what neighbors are taken from (D).
    - ``reference``: distributed like ``train``, for scores.
    - ``held_out``: distributed like ``database``, for judging.
    - ``captions``: distributed like ``database``, for training the image and text encoder.
    - ``style``: like ``database``, meant to be restricted to some ``styles``.

    ``train`` and ``reference`` lack the pairs in ``HELD_OUT_PAIRS``.

    Args:
        subset: Name of the subset.
        count: Number of pictures, 1 to 100,000,000.
        styles: Rendering styles to draw from. None means all.
        shapes: Shapes to draw from. None means all.

    Raises:
        SpecError: If the subset, a style or a shape is unknown, or the count is out of range.
    """

    def __init__(
        self,
        subset: str,
        count: int,
        styles: Sequence[str] | None = None,
        shapes: Sequence[str] | None = None,
    ) -> None:
        names = get_args(SubsetName)
        if subset not in names:
            raise SpecError("shapes source", f"no subset {subset!r}", f"one of {', '.join(names)}")
        if not 1 <= count <= _SUBSET_SPACING:
            raise SpecError("shapes source", f"count {count:,}", f"1 to {_SUBSET_SPACING:,}")
        self.subset = subset
        self.styles = _chosen("styles", STYLES, styles)
        shown = _chosen("shapes", SHAPES, shapes)
        self._count = count
        self._first = names.index(subset) * _SUBSET_SPACING
        left_out = HELD_OUT_PAIRS if subset in _WITHOUT_HELD_OUT_PAIRS else ()
        self._pairs = [(s, c) for s in shown for c in COLORS if (s, c) not in left_out]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> ImageItem:
        """Draw one picture with its caption and attributes.

        Raises:
            IndexError: If ``index`` is not in ``range(len(self))``.
        """
        if not 0 <= index < self._count:
            raise IndexError(
                f"shapes {self.subset} has {self._count:,} pictures, asked for {index}"
            )
        key = np.array([_WORLD_KEY, self._first + index], dtype=np.uint64)
        words = [int(word) for word in np.random.Philox(key=key).random_raw(16)]
        shape, color = self._pairs[words[0] % len(self._pairs)]
        attributes = {
            "shape": shape,
            "color": color,
            "style": self.styles[words[1] % len(self.styles)],
            "size": list(SIZES)[words[2] % len(SIZES)],
            "position": list(POSITIONS)[words[3] % len(POSITIONS)],
            "background": list(BACKGROUNDS)[words[4] % len(BACKGROUNDS)],
        }
        jitter = tuple((word >> 11) * 2.0**-52 - 1.0 for word in words[5:15])
        return ImageItem(
            image=draw(attributes, jitter),
            item_id=f"shapes-{self.subset}-{index:08d}",
            caption=describe(attributes, words[15] % len(_TEMPLATES)),
            attributes=attributes,
        )


def _chosen(kind: str, known: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return tuple(known)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        found = f"{kind} {', '.join(unknown) or '(none)'}"
        raise SpecError("shapes source", found, f"some of {', '.join(known)}")
    return tuple(wanted)


def describe(attributes: dict[str, str], template: int = 0) -> str:
    """Write a caption of a picture.

    Args:
        attributes: What the picture shows, as in an item of ``ShapesSource``.
        template: Number of the sentence; 0 names every attribute.

    Raises:
        IndexError: If there is no sentence of that number.
    """
    words = dict(attributes)
    words["style"] = _STYLE_WORDS.get(attributes["style"], attributes["style"])
    words["place"] = _PLACES[attributes["position"]]
    for name in ("size", "style", "color"):
        words[f"a_{name}"] = _ARTICLES[words[name][0] in "aeiou"]
    return _TEMPLATES[template].format(**words)


def draw(
    attributes: dict[str, str], jitter: Sequence[float] = (0.0,) * 10
) -> UInt8[np.ndarray, "32 32 3"]:
    """Draw one picture.

    Args:
        attributes: What to show, as in an item of ``ShapesSource``.
        jitter: Ten numbers in [-1, 1): shift right, shift down, size, turn, brightness of
            the shape (3 channels) and of the background (3 channels). Zeros draw the plain
            picture.
    """
    radius = SIZES[attributes["size"]] + 0.5 * jitter[2]
    reach = min(IMAGE_SIZE / 2 - 0.5 - radius, 6.5)
    direction = POSITIONS[attributes["position"]]
    x = _GRID_X - (reach * direction[0] + 0.6 * jitter[0])
    y = _GRID_Y - (reach * direction[1] + 0.6 * jitter[1])
    # A rational turn (half-angle tangent up to 0.06, about 7 degrees) needs no sine.
    half = 0.06 * jitter[3]
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    x, y = cosine * x + sine * y, cosine * y - sine * x
    paint = _coverage(attributes["style"], _distance(attributes["shape"], x, y, radius))
    front = np.array(COLORS[attributes["color"]]) + 4.0 * np.array(jitter[4:7])
    back = np.array(BACKGROUNDS[attributes["background"]]) + 4.0 * np.array(jitter[7:10])
    mixed = paint[..., None] * front + (1.0 - paint[..., None]) * back
    return np.clip(np.floor(mixed + 0.5), 0, 255).astype(np.uint8)


def _distance(
    shape: str,
    x: Float64[np.ndarray, "height width"],
    y: Float64[np.ndarray, "height width"],
    radius: float,
) -> Float64[np.ndarray, "height width"]:
    """Compute each pixel's distance to the shape's border, in pixels, negative inside."""
    if shape == "circle":
        from_circle: Float64[np.ndarray, "height width"] = np.sqrt(x * x + y * y) - radius
        return from_circle
    corners = _CORNERS[shape] * radius
    start_x, start_y = corners[:, 0, None, None], corners[:, 1, None, None]
    edges = np.roll(corners, -1, axis=0) - corners
    edge_x, edge_y = edges[:, 0, None, None], edges[:, 1, None, None]
    from_x, from_y = x - start_x, y - start_y
    along = (from_x * edge_x + from_y * edge_y) / (edge_x * edge_x + edge_y * edge_y)
    along = np.clip(along, 0.0, 1.0)
    off_x, off_y = from_x - along * edge_x, from_y - along * edge_y
    distance = np.sqrt((off_x * off_x + off_y * off_y).min(axis=0))
    # A point is inside when a ray from it crosses the border an odd number of times.
    end_y = start_y + edge_y
    spans = (start_y > y) != (end_y > y)
    rises = np.where(edge_y == 0.0, 1.0, edge_y)
    crossings = (spans & (x < start_x + (y - start_y) * edge_x / rises)).sum(axis=0)
    signed: Float64[np.ndarray, "height width"] = np.where(crossings % 2, -distance, distance)
    return signed


def _coverage(
    style: str, distance: Float64[np.ndarray, "height width"]
) -> Float64[np.ndarray, "height width"]:
    """Compute how much of each pixel is painted, 0 to 1, with one pixel of smoothing."""
    inside: Float64[np.ndarray, "height width"] = np.clip(0.5 - distance, 0.0, 1.0)
    if style == "filled":
        return inside
    line = inside - np.clip(0.5 - (distance + _LINE_WIDTH[style]), 0.0, 1.0)
    covered: Float64[np.ndarray, "height width"] = np.maximum(line, inside * _PATTERNS[style])
    return covered
