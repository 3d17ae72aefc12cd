from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rdm_batch.cluster.local import LocalCluster
from rdm_batch.cluster.texts import embed_texts
from rdm_batch.errors import CheckpointError
from rdm_batch.inputs.encoders import load_named_encoder
from rdm_batch.models.clip import OpenClipEncoder
from rdm_batch.specs.job import EncoderSpec
from tests.job_kit import write_encoder
from tests.tolerances import NETWORK_REL

TEXTS = ("a red circle", "an image of a blue square")


def test_texts_are_embedded_on_one_thread_and_the_others_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = str(write_encoder(tmp_path / "clip.safetensors"))
    expected = load_named_encoder("tiny-clip", weights).encode_texts(TEXTS)
    used: list[int] = []
    encode = OpenClipEncoder.encode_texts

    def noted(encoder: OpenClipEncoder, texts: tuple[str, ...]) -> np.ndarray:
        used.append(torch.get_num_threads())
        return encode(encoder, texts)

    monkeypatch.setattr(OpenClipEncoder, "encode_texts", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = embed_texts(LocalCluster(), EncoderSpec(name="tiny-clip", weights=weights), TEXTS)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert used == [1]
    np.testing.assert_allclose(found, expected, rtol=NETWORK_REL)


def test_an_encoder_that_is_not_there_is_named() -> None:
    encoder = EncoderSpec(name="ViT-B-32", weights="/nowhere/weights.pt")
    with pytest.raises(CheckpointError, match=r"/nowhere/weights\.pt does not exist"):
        embed_texts(LocalCluster(), encoder, TEXTS)
