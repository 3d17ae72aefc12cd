from __future__ import annotations

import numpy as np
import pytest
import torch

from rdm_batch.models.layers import timestep_embedding
from rdm_batch.models.networks import RdmNetworks
from rdm_batch.models.pixels import to_uint8
from tests.compare import relative_error
from tests.tolerances import DECODED_REL, NETWORK_REL

Oracle = dict[str, np.ndarray]


def _unet_inputs(oracle: Oracle) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(torch.from_numpy(oracle[f"unet_{name}"]) for name in ("x", "t", "context"))


def test_time_embedding_is_cosines_then_sines(rdm_oracle: Oracle) -> None:
    embedding = timestep_embedding(torch.from_numpy(rdm_oracle["unet_t"]), 32)
    assert relative_error(embedding, rdm_oracle["unet_t_embedding"]) <= NETWORK_REL


def test_unet_predicts_as_published(rdm_networks: RdmNetworks, rdm_oracle: Oracle) -> None:
    eps = rdm_networks.unet(*_unet_inputs(rdm_oracle))
    assert relative_error(eps, rdm_oracle["unet_eps_ema"]) <= NETWORK_REL


def test_unet_predicts_as_published_with_raw_weights(
    rdm_raw_networks: RdmNetworks, rdm_oracle: Oracle
) -> None:
    eps = rdm_raw_networks.unet(*_unet_inputs(rdm_oracle))
    assert relative_error(eps, rdm_oracle["unet_eps_raw"]) <= NETWORK_REL


@pytest.mark.parametrize(
    ("k_nn", "scale", "name"), [(1, 1.0, "unet_eps_ema_k1"), (4, 0.0, "unet_eps_ema_zero_ctx")]
)
def test_unet_predicts_as_published_with_other_contexts(
    rdm_networks: RdmNetworks, rdm_oracle: Oracle, k_nn: int, scale: float, name: str
) -> None:
    x, t, context = _unet_inputs(rdm_oracle)
    eps = rdm_networks.unet(x, t, context[:, :k_nn] * scale)
    assert relative_error(eps, rdm_oracle[name]) <= NETWORK_REL


def test_guided_prediction_gives_both_branches(
    rdm_networks: RdmNetworks, rdm_oracle: Oracle
) -> None:
    x, t, context = _unet_inputs(rdm_oracle)
    unet = rdm_networks.unet
    eps = unet.predict(x, unet.time_biases(t), unet.context_features(context, True))
    expected = np.concatenate([rdm_oracle["unet_eps_ema"], rdm_oracle["unet_eps_ema_zero_ctx"]])
    assert relative_error(eps, expected) <= NETWORK_REL


def test_autoencoder_encodes_as_published(rdm_networks: RdmNetworks, rdm_oracle: Oracle) -> None:
    latents = rdm_networks.autoencoder.encode(torch.from_numpy(rdm_oracle["img"]))
    assert relative_error(latents, rdm_oracle["img_encoded"]) <= NETWORK_REL


def test_autoencoder_quantizes_as_published(rdm_networks: RdmNetworks, rdm_oracle: Oracle) -> None:
    ids = rdm_networks.autoencoder.quantize.nearest(torch.from_numpy(rdm_oracle["z"]))
    assert np.array_equal(ids.numpy(), rdm_oracle["z_ids"])


def test_autoencoder_decodes_quantized_latents_as_published(
    rdm_networks: RdmNetworks, rdm_oracle: Oracle
) -> None:
    images = rdm_networks.autoencoder.decode(torch.from_numpy(rdm_oracle["z"]))
    assert relative_error(images, rdm_oracle["z_decoded"]) <= DECODED_REL


def test_images_become_bytes_as_published(rdm_oracle: Oracle) -> None:
    images = to_uint8(torch.from_numpy(rdm_oracle["z_decoded"]))
    assert np.array_equal(images.numpy(), rdm_oracle["z_uint8"])
