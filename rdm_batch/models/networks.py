"""The networks of one head together, under the names its weights file uses."""

from __future__ import annotations

from typing import cast

from torch import nn

from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder, build_autoencoder
from rdm_batch.models.unet import UNet
from rdm_batch.specs.architecture import RdmArchitecture


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
