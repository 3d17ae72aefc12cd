from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rdm_batch.models.networks import RarmNetworks, RdmNetworks
from rdm_batch.specs.families import RarmArchitecture, RdmArchitecture
from rdm_batch.specs.networks import TransformerConfig, UNetConfig, VqAutoencoderConfig
from tests.parity.recipe import rarm_weights, rdm_weights

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

RARM_MINI = RarmArchitecture(
    transformer=TransformerConfig(
        vocabulary_in=66,
        vocabulary_out=64,
        depth=2,
        num_heads=2,
        head_channels=16,
        context_dim=512,
        num_positions=64,
    ),
    autoencoder=VqAutoencoderConfig(
        channels=32,
        channel_mult=(1, 1, 2, 2),
        num_res_blocks=1,
        resolution=64,
        attention_resolutions=(8,),
        latent_channels=16,
        embed_dim=16,
        codebook_size=64,
    ),
    start_token=65,
)


def multinomial(
    noise: torch.Tensor,
) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Draw as torch.multinomial does on CPU: argmax p / q with recorded exponential q."""
    return lambda probabilities, position: (probabilities / noise[:, position]).argmax(1)


def _load(name: str) -> dict[str, np.ndarray]:
    with np.load(_DATA / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def rdm_oracle() -> dict[str, np.ndarray]:
    return _load("rdm_mini")


@pytest.fixture(scope="session")
def rarm_oracle() -> dict[str, np.ndarray]:
    return _load("rarm_mini")


@pytest.fixture(scope="session")
def rarm_networks() -> RarmNetworks:
    networks = RarmNetworks(RARM_MINI)
    networks.load_state_dict(rarm_weights(networks))
    return networks.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def published_files() -> Path:
    """The folder with the two models as the published code saves them, not kept here."""
    beside = Path(__file__).parents[2].parent / "shared" / "parity"
    folder = Path(os.environ.get("RDM_BATCH_PARITY", beside))
    if not (folder / "rdm_mini" / "model.ckpt").is_file():
        pytest.skip(f"no checkpoints in {folder}; set RDM_BATCH_PARITY to the parity folder")
    return folder


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
