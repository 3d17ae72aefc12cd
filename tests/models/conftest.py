from __future__ import annotations

import pytest

from rdm_batch.specs.architecture import RdmArchitecture, UNetConfig, VqAutoencoderConfig


@pytest.fixture(scope="session")
def tiny_rdm() -> RdmArchitecture:
    """A diffusion head of a few thousand parameters for 16x16 images."""
    return RdmArchitecture(
        unet=UNetConfig(
            model_channels=8,
            channel_mult=(1, 2),
            num_res_blocks=1,
            attention_downsampling=(2,),
            head_channels=8,
            context_dim=6,
            norm_groups=4,
        ),
        autoencoder=VqAutoencoderConfig(
            channels=8,
            channel_mult=(1, 2),
            num_res_blocks=1,
            resolution=16,
            attention_resolutions=(8,),
            latent_channels=3,
            embed_dim=3,
            codebook_size=16,
            norm_groups=4,
        ),
        latent_size=8,
    )
