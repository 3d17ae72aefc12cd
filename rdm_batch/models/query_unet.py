"""The UNet of KNN-Diffusion: RDM's, told which entry of its context is the query.

Sheynin et al. 2023 (arXiv:2204.02849) condition on an embedding and on its neighbors. Here the
query, the first entry, carries a learned vector that tells it from the neighbors, and its
projection is added to the time's embedding.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rdm_batch.models.layers import mark_query
from rdm_batch.models.unet import ContextFeatures, TimeBiases, UNet
from rdm_batch.specs.networks import UNetConfig


class QueryUNet(UNet):
    """Predict the noise in latents from their time, a query and its neighbors.

    Args:
        config: Sizes of the network.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        # Without a bias: no query, all zeros, adds nothing.
        self.query_embed = nn.Linear(config.context_dim, 4 * config.model_channels, bias=False)
        self.context_roles = nn.Embedding(2, config.context_dim)

    def biases(
        self, time: Float[Tensor, "_ embedding"], query: Float[Tensor, "batch embedding"]
    ) -> TimeBiases:
        """Compute what times and queries contribute to every residual block.

        Args:
            time: Embeddings of a time for all rows, or one each.
            query: What ``query_embed`` gave for the query of every row.
        """
        return tuple(block.time_bias(time + query) for block in self.residual_blocks)

    def context_features(
        self, context: Float[Tensor, "batch entry dim"], guided: bool = False
    ) -> ContextFeatures:
        """Compute keys and values of query and neighbors; see ``UNet.context_features``."""
        return super().context_features(mark_query(context, self.context_roles.weight), guided)

    def forward(
        self,
        x: Float[Tensor, "batch given height width"],
        timesteps: Int[Tensor, " batch"],
        context: Float[Tensor, "batch entry dim"],
    ) -> Float[Tensor, "batch channel height width"]:
        """Predict the noise in ``x`` at its times, given its query and neighbors.

        Args:
            x: Noisy latents, and behind them a given picture's; see ``UNet.forward``.
            timesteps: Integer time of every row.
            context: Query and neighbors of every row, as stored; zeros for none.
        """
        biases = self.biases(self.time_embeddings(timesteps), self.query_embed(context[:, 0]))
        return self.predict(x, biases, self.context_features(context))


def both_branches(
    query: Float[Tensor, "batch embedding"],
) -> Float[Tensor, "twice embedding"]:
    """Put the queries of the unconditional branch, which has none, behind the others."""
    return torch.cat([query, torch.zeros_like(query)])
