"""Feature networks and encoders on pretended CUDA tensors: what is copied, and what is waited for.

Beside the heads' own, whose kit this uses.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rdm_batch.metrics import resize
from rdm_batch.metrics.features import ExtractorDescription
from rdm_batch.metrics.networks import NetworkExtractor
from rdm_batch.models import clip
from rdm_batch.models.clip import OpenClipEncoder, build_clip
from tests.heads.pretend_cuda import pretended_cuda
from tests.heads.test_pretended_cuda import Counted
from tests.tiny_heads import TINY_CLIP


@pytest.fixture(autouse=True)
def _forget_what_is_pretended() -> Iterator[None]:
    yield
    for constants in (resize._neighbors, clip._by_channel):
        constants.cache_clear()


class _Layers(nn.Module):
    """Give three layers, as Inception does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        pooled = self.conv(pixels).mean((2, 3))
        return {"a": pooled, "b": pooled * 2, "c": pooled[:, :2]}


def test_feature_networks_wait_for_no_layer_and_no_batch() -> None:
    description = ExtractorDescription(
        name="a",
        digest="0" * 64,
        image_size=8,
        resize="tensorflow-bilinear",
        layers={"a": 4, "b": 4, "c": 2},
    )
    images = np.zeros((300, 8, 8, 3), np.uint8)
    with pretended_cuda():
        extractor = NetworkExtractor(description, _Layers(), "cuda")
        with Counted():
            extractor.extract(images)
        with Counted() as seen:
            found = extractor.extract(images)
    assert {name: rows.shape for name, rows in found.items()} == {
        "a": (300, 4),
        "b": (300, 4),
        "c": (300, 2),
    }
    # Three batches of 128, 128 and 44: bytes there, every layer back.
    assert seen.counts["to the GPU"] == 3
    assert seen.counts["from the GPU"] == 9
    assert seen.counts["waits"] == 0


def test_an_encoder_copies_bytes_and_waits_once() -> None:
    with pretended_cuda():
        encoder = OpenClipEncoder(
            build_clip(TINY_CLIP), "a", "0" * 64, lambda _: torch.zeros(1), (0.5,) * 3, (0.5,) * 3,
            "cuda",
        )  # fmt: skip
        size = encoder.image_size
        images = [np.zeros((size, size, 3), np.uint8)] * 300
        with Counted():
            encoder.encode_images(images)
        with Counted() as seen:
            rows = encoder.encode_images(images)
    assert rows.shape == (300, encoder.dim)
    # Batches of 256 and 44; the constants of the scaling are there since the first.
    assert seen.counts["to the GPU"] == 2
    assert seen.counts["from the GPU"] == 2
    assert seen.counts["waits"] == 0
    assert all(dtype == torch.uint8 for dtype in seen.sent)
