"""Architectures of the published checkpoints, by name."""

from __future__ import annotations

from typing import Final

from rdm_batch.errors import SpecError
from rdm_batch.specs.families import (
    Architecture,
    KnnContinuousArchitecture,
    KnnDiscreteArchitecture,
    RarmArchitecture,
    RdmArchitecture,
)
from rdm_batch.specs.networks import (
    CodeTransformerConfig,
    KlAutoencoderConfig,
    NoiseScheduleConfig,
    TransformerConfig,
    UNetConfig,
    VqAutoencoderConfig,
)

_VQ_F4 = VqAutoencoderConfig(
    channels=128,
    channel_mult=(1, 2, 4),
    resolution=256,
    latent_channels=3,
    embed_dim=3,
    codebook_size=8192,
)
_RDM_256 = RdmArchitecture(
    unet=UNetConfig(
        model_channels=192,
        channel_mult=(1, 2, 3, 5),
        attention_downsampling=(8, 4, 2),
        context_dim=512,
    ),
    autoencoder=_VQ_F4,
    latent_size=64,
)

PRESETS: Final[dict[str, Architecture]] = {
    "rdm-imagenet-256": _RDM_256,
    "rdm-ffhq-256": RdmArchitecture(
        unet=UNetConfig(
            model_channels=224,
            channel_mult=(1, 2, 3, 4),
            attention_downsampling=(8, 4, 2),
            context_dim=512,
        ),
        autoencoder=_VQ_F4,
        latent_size=64,
    ),
    "rdm-768": RdmArchitecture(
        unet=UNetConfig(
            latent_channels=16,
            model_channels=448,
            channel_mult=(1, 2, 3, 4),
            attention_downsampling=(4, 2, 1),
            context_dim=768,
        ),
        autoencoder=KlAutoencoderConfig(
            channels=128,
            channel_mult=(1, 1, 2, 2, 4),
            resolution=256,
            attention_resolutions=(16,),
            latent_channels=16,
            embed_dim=16,
        ),
        noise_schedule=NoiseScheduleConfig(linear_end=0.015),
        latent_size=48,
        scale_factor=0.22765929,
    ),
    "rarm-imagenet-256": RarmArchitecture(
        transformer=TransformerConfig(
            vocabulary_in=16386,
            vocabulary_out=16384,
            depth=18,
            num_heads=12,
            head_channels=64,
            context_dim=512,
            num_positions=256,
        ),
        autoencoder=VqAutoencoderConfig(
            channels=128,
            channel_mult=(1, 1, 2, 2, 4),
            resolution=256,
            attention_resolutions=(16,),
            latent_channels=256,
            embed_dim=256,
            codebook_size=16384,
        ),
        start_token=16385,
    ),
    # No weights of KNN-Diffusion were released: these have the sizes it was published with, about
    # 400 M parameters for either backbone. The continuous one of the authors works on pixels; this
    # one is RDM's, whose context has an entry more.
    "knn-continuous-256": KnnContinuousArchitecture(**_RDM_256.model_dump(exclude={"kind"})),
    # VQ-Diffusion's base network, as its authors configured it for COCO; 2,887 of its autoencoder's
    # 8,192 codes are in use there, and are all the codes there are here.
    "knn-discrete-256": KnnDiscreteArchitecture(
        transformer=CodeTransformerConfig(
            codebook_size=2887,
            depth=19,
            num_heads=16,
            head_channels=64,
            context_dim=512,
            grid_size=32,
            marks_query=True,
            gelu="sigmoid",
        ),
        autoencoder=VqAutoencoderConfig(
            channels=128,
            channel_mult=(1, 1, 2, 4),
            resolution=256,
            attention_resolutions=(32,),
            latent_channels=256,
            embed_dim=256,
            codebook_size=2887,
        ),
    ),
}


def preset_architecture(name: str) -> Architecture:
    """Give the architecture of a published checkpoint.

    Raises:
        SpecError: There is no preset of that name.
    """
    if name not in PRESETS:
        raise SpecError(
            "model.preset", f"there is no preset {name!r}", f"one of {', '.join(PRESETS)}"
        )
    return PRESETS[name]
