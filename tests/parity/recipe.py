"""Seeded weights of the two small models whose outputs the parity data record.

Every tensor has its own generator, seeded by its name, so that the weights need not be
kept: only arrays computed with them by the published code are (``data/*.npz``; made by
CompVis/retrieval-augmented-diffusion-models 1017f2b, latent-diffusion a506df5 and
taming-transformers 3ba01b2 on CPU in float32).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

UNET_SEED = 60221
RDM_AUTOENCODER_SEED = 60222
TRANSFORMER_SEED = 66260
RARM_AUTOENCODER_SEED = 66261


def _normal(seed: int, name: str, shape: torch.Size) -> Tensor:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shape, generator=generator)


def raw_weights(shapes: Mapping[str, torch.Size], seed: int) -> dict[str, Tensor]:
    """Make the weights of a network from the names and shapes of its parameters."""
    weights = {}
    for name, shape in shapes.items():
        noise = _normal(seed, name, shape)
        if noise.ndim == 1:
            weights[name] = 1 + 0.1 * noise if name.endswith("weight") else 0.05 * noise
        elif name.startswith("quantize.embedding"):
            weights[name] = noise
        elif name == "positional_encoding" or (name == "proj_in.weight" and noise.ndim == 2):
            weights[name] = 0.5 * noise
        else:
            weights[name] = noise / math.sqrt(math.prod(noise.shape[1:]))
    if seed == TRANSFORMER_SEED:
        for name in weights:
            if name == "proj_out.weight":
                weights[name] = 3 * weights[name]
            elif name.endswith("attn2.to_out.0.weight"):
                weights[name] = 2 * weights[name]
    return weights


def ema_weights(raw: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Make the exponential-moving-average copy that stands beside raw weights."""
    return {
        name: value + 0.3 * value.std() * _normal(seed, f"ema.{name}", value.shape)
        for name, value in raw.items()
    }


def rdm_weights(networks: nn.Module, ema: bool) -> dict[str, Tensor]:
    """Make the weights of ``rdm_mini``: UNet (raw or its moving average) and first stage."""
    shapes = {name: value.shape for name, value in networks.state_dict().items()}
    # The recipe names parameters without the prefix of the part they belong to.
    unet = raw_weights(_part(shapes, "model."), UNET_SEED)
    if ema:
        unet = ema_weights(unet, UNET_SEED)
    first_stage = raw_weights(_part(shapes, "first_stage_model."), RDM_AUTOENCODER_SEED)
    return {f"model.{name}": value for name, value in unet.items()} | {
        f"first_stage_model.{name}": value for name, value in first_stage.items()
    }


def rarm_weights(networks: nn.Module) -> dict[str, Tensor]:
    """Make the weights of ``rarm_mini``: transformer and first stage."""
    shapes = {name: value.shape for name, value in networks.state_dict().items()}
    transformer = raw_weights(_part(shapes, "transformer."), TRANSFORMER_SEED)
    first_stage = raw_weights(_part(shapes, "first_stage_model."), RARM_AUTOENCODER_SEED)
    return {f"transformer.{name}": value for name, value in transformer.items()} | {
        f"first_stage_model.{name}": value for name, value in first_stage.items()
    }


def _part(shapes: Mapping[str, torch.Size], prefix: str) -> dict[str, torch.Size]:
    return {
        name.removeprefix(prefix): shape
        for name, shape in shapes.items()
        if name.startswith(prefix)
    }
