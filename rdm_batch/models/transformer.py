"""The causal transformer of the autoregressive heads, with the published parameter names.

A transformer over the codes of an image (Esser et al. 2021, arXiv:2012.09841) whose blocks
also attend to the neighbors (Blattmann et al. 2022, arXiv:2204.11824).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rdm_batch.errors import SpecError
from rdm_batch.models.layers import KeysValues, TransformerBlock
from rdm_batch.specs.architecture import TransformerConfig


@dataclass(frozen=True)
class Generation:
    """Remember what is needed to generate the next token of a batch.

    Attributes:
        neighbors: Cross-attention keys and values of every block, one row a sample.
        past: Self-attention keys and values of every block, filled up to the last position.
        guided: Whether an unconditional branch goes along.
    """

    neighbors: tuple[KeysValues, ...]
    past: tuple[tuple[Tensor, Tensor], ...]
    guided: bool


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
        """Embed tokens that stand from ``first_position`` on (the start token has 0).

        Raises:
            SpecError: The tokens reach beyond the positions the network has.
        """
        end = first_position + tokens.shape[1]
        if end > self.config.num_positions:
            raise SpecError(
                "transformer", f"{end} tokens", f"at most {self.config.num_positions} positions"
            )
        embedded: Tensor = self.proj_in(tokens) + self.positional_encoding[:, first_position:end].T
        return embedded

    def start(self, context: Float[Tensor, "batch k_nn dim"], guided: bool = False) -> Generation:
        """Prepare to generate: project the neighbors once, make room for keys and values.

        Args:
            context: Neighbor embeddings, as stored.
            guided: Whether logits for an all-zero context are wanted too.
        """
        neighbors = tuple(block.attn2.keys_values(context) for block in self.blocks)
        batch, config = len(context), self.config
        past = []
        for position in range(len(self.blocks)):
            # Up to the first cross-attention both guidance branches are the same.
            rows = 2 * batch if guided and position > 0 else batch
            shape = (rows, config.num_heads, config.num_positions, config.head_channels)
            past.append((context.new_empty(shape), context.new_empty(shape)))
        return Generation(neighbors, tuple(past), guided)

    def next_logits(
        self, tokens: Int[Tensor, " batch"], position: int, generation: Generation
    ) -> Float[Tensor, "_ code"]:
        """Give the logits of the code that follows, with all earlier positions remembered.

        Args:
            tokens: The tokens at ``position``, one a sample (the start token at 0).
            position: Their position; every one before has been given in an earlier call.
            generation: What ``start`` prepared; the new keys and values are added to it.

        Returns:
            One row a sample; if guided, the conditional logits of all samples followed by
            the unconditional ones.
        """
        x = self.embed(tokens[:, None], position)
        for block, past, neighbors in zip(
            self.blocks, generation.past, generation.neighbors, strict=True
        ):
            normed = block.norm1(x)
            for remembered, new in zip(past, block.attn1.keys_values(normed), strict=True):
                remembered[:, :, position] = new[:, :, 0]
            so_far = (past[0][:, :, : position + 1], past[1][:, :, : position + 1])
            x = x + block.attn1(normed, so_far)
            x = block.cross_attend(x, neighbors, generation.guided)
            x = x + block.ff(block.norm3(x))
        return F.linear(x[:, 0], self.proj_out.weight[:, :, 0], self.proj_out.bias)

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
