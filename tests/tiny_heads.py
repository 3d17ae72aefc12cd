"""Architectures of a few thousand parameters, and random weights for them.

Tests that need other sizes say why where they define them.
"""

from __future__ import annotations

import torch

from rdm_batch.models.networks import build_networks
from rdm_batch.specs.families import (
    Architecture,
    KnnContinuousArchitecture,
    KnnDiscreteArchitecture,
    RarmArchitecture,
    RdmArchitecture,
)
from rdm_batch.specs.networks import (
    ClipArchitecture,
    CodeTransformerConfig,
    KlAutoencoderConfig,
    TransformerConfig,
    UNetConfig,
    VqAutoencoderConfig,
)

TINY_VQ = VqAutoencoderConfig(
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    resolution=16,
    attention_resolutions=(8,),
    latent_channels=3,
    embed_dim=3,
    codebook_size=16,
    norm_groups=4,
)

TINY_RDM = RdmArchitecture(
    unet=UNetConfig(
        model_channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_downsampling=(1, 2),
        head_channels=8,
        context_dim=6,
        norm_groups=4,
    ),
    autoencoder=TINY_VQ,
    latent_size=8,
)

TINY_RARM = RarmArchitecture(
    transformer=TransformerConfig(
        vocabulary_in=18,
        vocabulary_out=16,
        depth=2,
        num_heads=2,
        head_channels=4,
        context_dim=6,
        num_positions=16,
    ),
    autoencoder=TINY_VQ,
    start_token=17,
)

TINY_KNN_DISCRETE = KnnDiscreteArchitecture(
    transformer=CodeTransformerConfig(
        codebook_size=16,
        depth=2,
        num_heads=2,
        head_channels=4,
        context_dim=6,
        grid_size=4,
        num_times=20,
        marks_query=True,
    ),
    autoencoder=TINY_VQ,
)

TINY_KNN_CONTINUOUS = KnnContinuousArchitecture(**TINY_RDM.model_dump(exclude={"kind"}))

TINY_KL = KlAutoencoderConfig(**TINY_VQ.model_dump(exclude={"kind", "codebook_size"}))

TINY_CLIP = ClipArchitecture(
    name="tiny-clip",
    embed_dim=TINY_RDM.context_dim,
    image_size=32,
    vision_width=4,
    text_width=16,
    text_layers=1,
    head_width=8,
    context_length=12,
    vocabulary=("a", "an", "blue", "circle", "image", "of", "red", "square"),
)


def random_weights(architecture: Architecture, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make weights of which none are zero, so that every path of the networks shows."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in build_networks(architecture).state_dict().items()
    }
