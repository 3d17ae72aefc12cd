"""The causal transformer of the autoregressive heads, with the published parameter names.

A transformer over the codes of an image (Esser et al. 2021, arXiv:2012.09841) whose blocks
also attend to the neighbors (Blattmann et al. 2022, arXiv:2204.11824).
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rdm_batch.models.layers import TransformerBlock
from rdm_batch.specs.architecture import TransformerConfig


class CausalTransformer(nn.Module):
    """Predict the next code of every position from the codes so far and the neighbors.

    Args:
        config: Sizes of the network.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        # See autoencoder.Codebook for why the embedding is made from an empty tensor.
        self.proj_in = nn.Embedding(
            config.vocabulary_in, width, _weight=torch.empty(config.vocabulary_in, width)
        )
        self.positional_encoding = nn.Parameter(torch.empty(width, config.num_positions))
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, config.context_dim, config.num_heads, config.head_channels)
            for _ in range(config.depth)
        )
        self.proj_out = nn.Conv1d(width, config.vocabulary_out, 1)
        for table in (self.proj_in.weight, self.positional_encoding):
            nn.init.uniform_(table, -(width**-0.5), width**-0.5)

    @property
    def blocks(self) -> tuple[TransformerBlock, ...]:
        """The transformer blocks, in order."""
        return tuple(cast(TransformerBlock, block) for block in self.transformer_blocks)

    def embed(
        self, tokens: Int[Tensor, "batch token"], first_position: int = 0
    ) -> Float[Tensor, "batch token width"]:
        """Embed tokens that stand from ``first_position`` on (the start token has 0)."""
        positions = self.positional_encoding[:, first_position : first_position + tokens.shape[1]]
        embedded: Tensor = self.proj_in(tokens) + positions.T
        return embedded

    def forward(
        self, tokens: Int[Tensor, "batch token"], context: Float[Tensor, "batch k_nn dim"]
    ) -> Float[Tensor, "batch token code"]:
        """Give the logits of the code that follows each token.

        Args:
            tokens: Start token and codes, at most ``num_positions``.
            context: Neighbor embeddings, as stored; zeros for no neighbors.
        """
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, block.attn2.keys_values(context), is_causal=True)
        logits: Tensor = self.proj_out(x.transpose(1, 2)).transpose(1, 2)
        return logits
