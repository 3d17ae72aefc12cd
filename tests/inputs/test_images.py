import pytest

from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.errors import ImageError
from rdm_batch.inputs.images import open_images


@pytest.mark.parametrize(
    ("location", "styles", "shapes"),
    [
        ("shapes:train:40", {"filled", "outline", "hatched", "dotted"}, None),
        ("shapes:train:40:filled,dotted", {"filled", "dotted"}, None),
        ("shapes:train:40:filled:star,heart", {"filled"}, {"star", "heart"}),
        ("shapes:train:40:all:star", {"filled", "outline", "hatched", "dotted"}, {"star"}),
    ],
)
def test_shapes_are_restricted_as_asked(
    location: str, styles: set[str], shapes: set[str] | None
) -> None:
    source, fingerprint = open_images(location)
    assert isinstance(source, ShapesSource)
    assert fingerprint == location
    facts = [source[index].attributes for index in range(40)]
    assert {fact["style"] for fact in facts} == styles
    assert shapes is None or {fact["shape"] for fact in facts} == shapes


@pytest.mark.parametrize("location", ["shapes:train:many", "shapes:train:4:all:star:red"])
def test_other_descriptions_of_shapes_are_refused(location: str) -> None:
    with pytest.raises(ImageError, match="not a shapes source"):
        open_images(location)
