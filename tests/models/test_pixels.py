from __future__ import annotations

import torch

from rdm_batch.models.pixels import from_uint8, to_uint8


def test_bytes_are_clamped_and_truncated() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).reshape(1, 1, 1, 6)
    assert to_uint8(values).flatten().tolist() == [0, 0, 127, 254, 255, 255]


def test_bytes_fill_the_range_of_the_networks() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1)
    assert from_uint8(images).flatten().tolist() == [-1.0, 1.0]
