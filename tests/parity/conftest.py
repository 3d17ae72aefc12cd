from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rdm_batch.models.networks import RdmNetworks
from rdm_batch.specs.architecture import RdmArchitecture, UNetConfig, VqAutoencoderConfig
from tests.parity.recipe import rdm_weights

_DATA = Path(__file__).parent / "data"

RDM_MINI = RdmArchitecture(
    unet=UNetConfig(
        model_channels=32,
        channel_mult=(1, 2),
        attention_downsampling=(2,),
        head_channels=16,
        context_dim=512,
    ),
    autoencoder=VqAutoencoderConfig(
        channels=32,
        channel_mult=(1, 2, 2),
        num_res_blocks=1,
        resolution=64,
        latent_channels=3,
        embed_dim=3,
        codebook_size=64,
    ),
    latent_size=16,
)


def _load(name: str) -> dict[str, np.ndarray]:
    with np.load(_DATA / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def rdm_oracle() -> dict[str, np.ndarray]:
    return _load("rdm_mini")


def _rdm_networks(ema: bool) -> RdmNetworks:
    networks = RdmNetworks(RDM_MINI)
    networks.load_state_dict(rdm_weights(networks, ema))
    return networks.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def rdm_networks() -> RdmNetworks:
    """The small diffusion head with the weights sampling uses."""
    return _rdm_networks(ema=True)


@pytest.fixture(scope="session")
def rdm_raw_networks() -> RdmNetworks:
    return _rdm_networks(ema=False)


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.inference_mode():
        yield
