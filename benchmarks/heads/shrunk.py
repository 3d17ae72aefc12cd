"""Networks shrunk to try a benchmark itself."""

from __future__ import annotations

from rdm_batch.specs.families import Architecture, KnnDiscreteArchitecture, RarmArchitecture


def small(architecture: Architecture) -> Architecture:
    """Shrink an architecture to about a thousandth of its work, keeping its structure."""
    sizes = {"channels": 32}
    if architecture.autoencoder.kind == "vq":
        sizes["codebook_size"] = 64
    autoencoder = architecture.autoencoder.model_copy(update=sizes)
    if isinstance(architecture, RarmArchitecture):
        transformer = architecture.transformer.model_copy(
            update={
                "depth": 2,
                "num_heads": 2,
                "vocabulary_in": 66,
                "vocabulary_out": 64,
                "num_positions": 16,
            }
        )
        return architecture.model_copy(
            update={"transformer": transformer, "autoencoder": autoencoder, "start_token": 65}
        )
    if isinstance(architecture, KnnDiscreteArchitecture):
        codes = architecture.transformer.model_copy(
            update={"depth": 2, "num_heads": 2, "codebook_size": 64, "grid_size": 4}
        )
        return architecture.model_copy(update={"transformer": codes, "autoencoder": autoencoder})
    unet = architecture.unet.model_copy(update={"model_channels": 32})
    return architecture.model_copy(
        update={"unet": unet, "autoencoder": autoencoder, "latent_size": 8}
    )
