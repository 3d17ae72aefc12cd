"""A head without a network, to measure what the pipeline itself carries."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from rdm_batch.heads.drawing import Drawing, Finished
from rdm_batch.heads.head import check_context
from rdm_batch.sampling import noise as streams
from rdm_batch.sampling.noise import SampleNoise


class NullHead:
    """Make images straight from noise.

    Args:
        image_size: Side length of the images, pixels.
        context_dim: Width of the neighbor embeddings, which are checked and not used.
    """

    def __init__(self, image_size: int, context_dim: int) -> None:
        self.image_size = image_size
        self.context_dim = context_dim
        self.fixed_batches = False

    def warm_up(self, context: Float32[np.ndarray, "batch k_nn dim"]) -> None:
        """Do nothing."""

    def start(self, context: Float32[np.ndarray, "batch k_nn dim"], noise: SampleNoise) -> Drawing:
        """Make the images at once; see ``Head``."""
        return Finished(self.generate(context, noise))

    def generate(
        self, context: Float32[np.ndarray, "batch k_nn dim"], noise: SampleNoise
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """Make one image of uniformly random bytes for every sample."""
        check_context(context, noise, self.context_dim)
        draws = noise.uniform(streams.START, (self.image_size, self.image_size, 3))
        return (draws * 256).astype(np.uint8)
