"""Weights files of feature networks with random but realistic numbers."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import torch
import torch_fidelity.feature_extractor_inceptionv3 as published
from torch import nn


def write_inception(path: Path) -> None:
    """Write a state dict of ``inception-v3-compat`` whose activations keep their scale."""
    cls = published.FeatureExtractorInceptionV3
    with (
        mock.patch.object(published, "load_state_dict_from_url", return_value={}),
        mock.patch.object(cls, "load_state_dict"),
    ):
        network = cls("inception-v3-compat", ["2048"])
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            # Anything but the identity, so that folding it is tested.
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    # Logits of a few units, as a trained network's: class probabilities stay away from 0 and 1.
    nn.init.normal_(network.fc.weight, std=0.05, generator=generator)
    torch.save(network.state_dict(), path)
