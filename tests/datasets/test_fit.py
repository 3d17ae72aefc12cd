from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rdm_batch.datasets.fit import fit_image
from rdm_batch.specs.image_resize import ImageResize


def _image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["bicubic", "lanczos", "box"])
@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (17, 17), (8, 200), (1, 1)])
def test_the_largest_centered_square_is_resized_by_the_named_filter(
    name: str, height: int, width: int
) -> None:
    image = _image(height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(image).crop((left, top, left + side, top + side))
    expected = square.resize((16, 16), Image.Resampling[name.upper()])
    fitted = fit_image(image, ImageResize(size=16, filter=name))
    np.testing.assert_array_equal(fitted, np.asarray(expected))


def test_without_a_crop_the_shape_changes() -> None:
    image = _image(40, 61)
    expected = Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)
    fitted = fit_image(image, ImageResize(size=16, crop="none"))
    np.testing.assert_array_equal(fitted, np.asarray(expected))


def test_an_image_of_the_size_stays_as_it_is() -> None:
    image = _image(16, 16)
    assert fit_image(image, ImageResize(size=16)) is image
