from __future__ import annotations

from typing import Any

import pytest

from rdm_batch.errors import SpecError
from rdm_batch.specs.families import parse_architecture
from tests.tiny_heads import TINY_KNN_DISCRETE


def _fields() -> dict[str, Any]:
    return {
        "kind": "rdm",
        "unet": {
            "model_channels": 32,
            "channel_mult": [1, 2],
            "attention_downsampling": [2],
            "context_dim": 64,
        },
        "autoencoder": {
            "kind": "vq",
            "channels": 32,
            "channel_mult": [1, 2, 2],
            "resolution": 32,
            "latent_channels": 3,
            "embed_dim": 3,
            "codebook_size": 256,
        },
        "latent_size": 8,
    }


def test_sizes_follow_from_the_parts() -> None:
    architecture = parse_architecture(_fields(), "job")
    assert architecture.image_size == 32
    assert architecture.context_dim == 64
    assert architecture.latent_shape == (3, 8, 8)


def test_architecture_survives_its_json() -> None:
    architecture = parse_architecture(_fields(), "job")
    assert parse_architecture(architecture.model_dump_json(), "file") == architecture


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("unet", "chanel_mult"),
            [1],
            "unet.chanel_mult: is not a field; did you mean",
        ),
        (("unet", "model_channels"), 0, "unet.model_channels: is 0; needed greater than 0"),
        (("unet", "model_channels"), 40, "not a multiple of norm_groups 32"),
        (("unet", "head_channels"), 24, "not a multiple of head_channels 24"),
        (("unet", "latent_channels"), 4, "unet.latent_channels is 4 but autoencoder.embed_dim is"),
        (("autoencoder", "norm_groups"), 24, "not a multiple of norm_groups 24"),
        (("autoencoder", "kind"), "vae", "autoencoder.kind: is 'vae'; needed one of 'vq', 'kl'"),
        (("latent_size",), 9, "latent_size 9 is not a multiple of 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(path: tuple[str, ...], value: Any, message: str) -> None:
    fields = _fields()
    part = fields
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    with pytest.raises(SpecError) as caught:
        parse_architecture(fields, "jobs/a.yaml: model.architecture")
    assert message in str(caught.value)
    assert str(caught.value).startswith("jobs/a.yaml: model.architecture: ")


def test_more_codes_than_the_codebook_are_refused() -> None:
    fields = TINY_KNN_DISCRETE.model_dump()
    fields["transformer"]["codebook_size"] += 1
    with pytest.raises(
        SpecError, match=r"codebook_size is 17 but .*codebook_size is 16; they must"
    ):
        parse_architecture(fields, "model.architecture")
