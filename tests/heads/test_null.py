from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.errors import DatabaseError
from rdm_batch.heads.head import Head
from rdm_batch.heads.null import NullHead
from rdm_batch.sampling.noise import SampleNoise


def _noise(*indices: int) -> SampleNoise:
    return SampleNoise(0, np.array(indices, dtype=np.int64))


def test_images_are_the_samples_own_noise() -> None:
    head = NullHead(image_size=8, context_dim=4)
    images = head.generate(np.zeros((2, 1, 4), np.float32), _noise(3, 5))
    assert isinstance(head, Head)
    assert images.shape == (2, 8, 8, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images[1:], head.generate(np.ones((1, 1, 4), np.float32), _noise(5)))
    assert not np.array_equal(images[0], images[1])


def test_context_of_another_width_is_refused() -> None:
    with pytest.raises(DatabaseError, match="needed width 4"):
        NullHead(8, 4).generate(np.zeros((1, 1, 5), np.float32), _noise(0))
