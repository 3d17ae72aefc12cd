"""Errors that layouts and arithmetics of the decoder make."""

from __future__ import annotations

import torch

from benchmarks.heads.procedures import normal
from benchmarks.networks import random_networks
from rdm_batch.specs.families import Architecture


def decoder_errors(architecture: Architecture, device: str) -> dict[str, float]:
    """Compare decoding in channels_last and in bfloat16 with float32, relative to its range."""
    torch.manual_seed(0)
    networks = random_networks(architecture, device)
    decoder = networks.autoencoder.decoder
    size = architecture.latent_size
    features = normal((1, architecture.autoencoder.latent_channels, size, size), device)
    with torch.inference_mode():
        exact = decoder(features)
        reordered = decoder.to(memory_format=torch.channels_last)(features)
        rounded = decoder.bfloat16()(features.bfloat16()).float()
    scale = exact.abs().max()
    return {
        "channels_last_max": float((reordered - exact).abs().max() / scale),
        "bfloat16_max": float((rounded - exact).abs().max() / scale),
        "bfloat16_mean": float((rounded - exact).abs().mean() / scale),
    }
