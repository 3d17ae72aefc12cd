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

from rdm_batch.errors import SpecError
from rdm_batch.models.huge_pages import huge_empty
from rdm_batch.models.layers import KeysValues, TransformerBlock
from rdm_batch.models.packed import PositionwiseLinear
from rdm_batch.specs.networks import TransformerConfig

_Room = Float[Tensor, "_ head position head_channel"]
_New = Float[Tensor, "_ head 1 head_channel"]
_SoFar = Float[Tensor, "_ head seen head_channel"]
_BlockPast = tuple[_Room, _Room]
Past = tuple[_BlockPast, ...]
"""Self-attention keys and values of every block, for every position."""


@dataclass(frozen=True)
class Generation:
    """Remember what is needed to generate the next token of a batch.

    Attributes:
        neighbors: Cross-attention keys and values of every block, one row a sample.
        past: Self-attention keys and values of every block, up to the last position.
        guided: Whether an unconditional branch goes along.
    """

    neighbors: tuple[KeysValues, ...]
    past: Past
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
        # See codebook.Codebook for why the embedding is made from an empty tensor.
        self.proj_in = nn.Embedding(
            config.vocabulary_in, width, _weight=torch.empty(config.vocabulary_in, width)
        )
        self.positional_encoding = nn.Parameter(torch.empty(width, config.num_positions))
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, config.context_dim, config.num_heads, config.head_channels)
            for _ in range(config.depth)
        )
        self.proj_out = PositionwiseLinear(width, config.vocabulary_out)
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

    def start(
        self,
        context: Float[Tensor, "batch k_nn dim"],
        guided: bool = False,
        earlier: Generation | None = None,
    ) -> Generation:
        """Prepare to generate: project the neighbors once, make room for keys and values.

        Args:
            context: Neighbor embeddings, as stored.
            guided: Whether logits for an all-zero context are wanted too.
            earlier: A generation of as many samples and neighbors that has ended: it is begun
                anew, in the memory it has, and given back.
        """
        neighbors = tuple(block.attn2.keys_values(context) for block in self.blocks)
        if earlier is None:
            return Generation(neighbors, self._make_room(context, guided), guided)
        for kept, new in zip(earlier.neighbors, neighbors, strict=True):
            kept[0].copy_(new[0])
            kept[1].copy_(new[1])
        for block_past in earlier.past:
            # What is attended to with a weight of zero must be finite.
            block_past[0].zero_()
            block_past[1].zero_()
        return earlier

    def _make_room(self, context: Float[Tensor, "batch k_nn dim"], guided: bool) -> Past:
        batch, config = len(context), self.config
        past = []
        for place in range(config.depth):
            # Up to the first cross-attention both guidance branches are the same.
            rows = 2 * batch if guided and place > 0 else batch
            shape = (rows, config.num_heads, config.num_positions, config.head_channels)
            past.append((_zeros(shape, context), _zeros(shape, context)))
        return tuple(past)

    def next_logits(
        self,
        tokens: Int[Tensor, " batch"],
        position: int | Int[Tensor, " 1"],
        generation: Generation,
        length: int | None = None,
    ) -> Float[Tensor, "_ code"]:
        """Give the logits of the code that follows, with all earlier positions remembered.

        Args:
            tokens: The tokens at ``position``, one a sample (the start token at 0).
            position: Their position; every one before has been given in an earlier call. As a
                tensor it changes no shapes, as a compiled function needs: then the first
                ``length`` positions are attended to, those to come with a weight of zero.
            generation: What ``start`` prepared; the new keys and values are added to it.
            length: Above a position that is a tensor; None means all positions there are.

        Returns:
            One row a sample; if guided, the conditional logits of all samples followed by
            the unconditional ones.
        """
        seen = None
        if isinstance(position, int):
            x = self.embed(tokens[:, None], position)
        else:
            encoding = self.positional_encoding.index_select(1, position).T
            x = self.proj_in(tokens[:, None]) + encoding
            length = length or self.config.num_positions
            seen = torch.arange(length, device=x.device)[None] <= position
        for block, past, neighbors in zip(
            self.blocks, generation.past, generation.neighbors, strict=True
        ):
            queries, *new = block.attn1.queries_keys_values(block.norm1(x))
            so_far = _remember(past, (new[0], new[1]), position, length)
            x = x + block.attn1.attend(queries, so_far, seen=seen)
            x = block.cross_attend(x, neighbors, generation.guided)
            x = x + block.ff(block.norm3(x))
        logits: Tensor = self.proj_out(x[:, 0])
        return logits

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
        logits: Tensor = self.proj_out(x)
        return logits


def _zeros(shape: tuple[int, ...], like: Tensor) -> _Room:
    """Make room for keys or values, which every token reads once."""
    if like.device.type == "cpu":
        return huge_empty(shape, like.dtype)
    return like.new_zeros(shape)


def _remember(
    past: _BlockPast,
    new: tuple[_New, _New],
    position: int | Int[Tensor, " 1"],
    length: int | None,
) -> tuple[_SoFar, _SoFar]:
    """Store the keys and values of a position, and give those to attend to."""
    if isinstance(position, int):
        for remembered, added in zip(past, new, strict=True):
            remembered[:, :, position] = added[:, :, 0]
        return past[0][:, :, : position + 1], past[1][:, :, : position + 1]
    for remembered, added in zip(past, new, strict=True):
        remembered.index_copy_(2, position, added)
    return past[0][:, :, :length], past[1][:, :, :length]
