from __future__ import annotations

import pytest

from rdm_batch.errors import CheckpointError
from rdm_batch.inputs.encoders import encoder_files
from rdm_batch.inputs.published_encoders import published_weights


def test_published_weights_come_with_digest_and_address() -> None:
    text = published_weights("ViT-B-32")
    digest = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    assert f"openai (SHA-256 {digest}) from https://" in text
    assert "(SHA-256 begins d867053b)" in text
    assert "others" in text


def test_weights_on_a_hub_alone_are_named_too() -> None:
    assert "huggingface.co/" in published_weights("ViT-SO400M-14-SigLIP")


def test_an_unknown_architecture_has_none() -> None:
    assert published_weights("tiny-clip") == ""


@pytest.mark.parametrize("weights", [None, "/nowhere/ViT-B-32.pt"])
def test_missing_weights_of_an_encoder_say_where_people_get_them(weights: str | None) -> None:
    with pytest.raises(CheckpointError, match=r"SHA-256 40d36571.* from https://openaipublic"):
        encoder_files("ViT-B-32", weights)
