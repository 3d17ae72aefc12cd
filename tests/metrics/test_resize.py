from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from rdm_batch.errors import MetricError
from rdm_batch.metrics.resize import resize
from tests.tolerances import RESIZE_ABS


def _images(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (299, 299), (17, 45), (400, 310)])
def test_tensorflow_bilinear_equals_torch_fidelity(height: int, width: int) -> None:
    images = _images(height, width)
    theirs = interpolate_bilinear_2d_like_tensorflow1x(
        torch.from_numpy(images).permute(0, 3, 1, 2).float(), size=(299, 299), align_corners=False
    )
    assert torch.equal(resize(images, 299, "tensorflow-bilinear"), theirs)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (512, 400)])
def test_clean_bicubic_equals_pillow_in_float(height: int, width: int) -> None:
    images = _images(height, width)
    ours = resize(images, 299, "clean-bicubic").numpy()
    for image, result in zip(images, ours, strict=True):
        for channel in range(3):
            plane = Image.fromarray(image[:, :, channel].astype(np.float32))
            expected = np.asarray(plane.resize((299, 299), Image.Resampling.BICUBIC))
            np.testing.assert_allclose(result[channel], expected, atol=RESIZE_ABS)


def test_the_two_resizes_differ() -> None:
    images = _images(512, 512)
    legacy, clean = (
        resize(images, 299, name).numpy() for name in ("tensorflow-bilinear", "clean-bicubic")
    )
    # Without antialiasing, noise keeps its contrast when it is made smaller.
    assert legacy.std() > 1.3 * clean.std()


def test_an_unknown_resize_is_named() -> None:
    with pytest.raises(MetricError, match="'bilinear' is not known; needed one of tensorflow"):
        resize(_images(8, 8), 299, "bilinear")
