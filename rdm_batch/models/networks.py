"""The networks of one head together, under the names its weights file uses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn

from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder, build_autoencoder
from rdm_batch.models.transformer import CausalTransformer
from rdm_batch.models.unet import UNet
from rdm_batch.specs.architecture import Architecture, RarmArchitecture, RdmArchitecture


class RdmNetworks(nn.Module):
    """Hold UNet and autoencoder of a diffusion head; its state dict is the file format.

    Args:
        architecture: Sizes of both.
    """

    def __init__(self, architecture: RdmArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = nn.ModuleDict({"diffusion_model": UNet(architecture.unet)})
        self.first_stage_model = build_autoencoder(architecture.autoencoder)

    @property
    def unet(self) -> UNet:
        """The noise-predicting network."""
        return cast(UNet, self.model["diffusion_model"])

    @property
    def autoencoder(self) -> VqAutoencoder | KlAutoencoder:
        """The first stage."""
        return self.first_stage_model


class RarmNetworks(nn.Module):
    """Hold transformer and autoencoder of an autoregressive head, as ``RdmNetworks`` does.

    Args:
        architecture: Sizes of both.
    """

    def __init__(self, architecture: RarmArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.transformer = CausalTransformer(architecture.transformer)
        self.first_stage_model = VqAutoencoder(architecture.autoencoder)

    @property
    def autoencoder(self) -> VqAutoencoder:
        """The first stage."""
        return self.first_stage_model


def build_networks(architecture: Architecture) -> RdmNetworks | RarmNetworks:
    """Build the networks of a head, with new weights."""
    if isinstance(architecture, RdmArchitecture):
        return RdmNetworks(architecture)
    return RarmNetworks(architecture)


def load_networks(
    architecture: Architecture, state_dict: Mapping[str, Tensor]
) -> RdmNetworks | RarmNetworks:
    """Build the networks of a head around given tensors, without copying them.

    Args:
        architecture: Sizes of the networks.
        state_dict: Tensors as ``tensor_shapes`` names them.
    """
    with torch.device("meta"):
        networks = build_networks(architecture)
    networks.load_state_dict(state_dict, assign=True)
    return networks


@lru_cache(maxsize=16)
def tensor_shapes(architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
    """Give the name and shape of every tensor of a head's weights, allocating none."""
    with torch.device("meta"):
        networks = build_networks(architecture)
    return {name: tuple(tensor.shape) for name, tensor in networks.state_dict().items()}
