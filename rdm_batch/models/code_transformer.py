"""The transformer of mask-and-replace diffusion: all codes of an image at once.

Gu et al. 2022 (arXiv:2111.14822): every code attends to every other and to the context, and
the time enters through the normalizations. Parameter names are those under which diffusers
stores such transformers.
"""

from __future__ import annotations

from typing import Final, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rdm_batch.models.layers import (
    Attention,
    KeysValues,
    add_to,
    cross_attend,
    mark_query,
    timestep_embedding,
)
from rdm_batch.specs.networks import CodeTransformerConfig

_INNER_AT_ONCE: Final = 2**21
"""Numbers between the layers of a feed-forward layer that a CPU's caches hold: 8 MiB in float32."""


def _table(rows: int, width: int) -> nn.Embedding:
    """Make a new table of embeddings, small: a block could not be heard beside larger ones.

    See codebook.Codebook for why it is made from an empty tensor.
    """
    table = nn.Embedding(rows, width, _weight=torch.empty(rows, width))
    nn.init.uniform_(table.weight, -(width**-0.5), width**-0.5)
    return table


class _GridEmbedding(nn.Module):
    """Embed codes (the mask is the last) and, added, their rows and columns."""

    def __init__(self, config: CodeTransformerConfig) -> None:
        super().__init__()
        self.emb = _table(config.codebook_size + 1, config.width)
        self.height_emb = _table(config.grid_size, config.width)
        self.width_emb = _table(config.grid_size, config.width)

    def forward(self, states: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position _"]:
        place = self.height_emb.weight[:, None] + self.width_emb.weight[None]
        embedded: Tensor = self.emb(states) + place.flatten(0, 1)
        return embedded


class _TimedNorm(nn.Module):
    """Normalize, then scale and shift as the time says."""

    def __init__(self, width: int, num_times: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(num_times, width, _weight=torch.empty(num_times, width))
        self.linear = nn.Linear(width, 2 * width)
        # A new network is the same at every time, and begins to tell times that are near each
        # other alike: rows drawn by chance would make a network of each time.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            times = torch.arange(1, num_times + 1)
            self.emb.weight.copy_(timestep_embedding(times, width + width % 2)[:, :width])

    def forward(
        self, x: Float[Tensor, "batch position width"], row: Int[Tensor, " _"]
    ) -> Float[Tensor, "batch position width"]:
        scale, shift = self.linear(F.silu(self.emb(row)))[:, None].chunk(2, dim=-1)
        if len(row) == 1:
            # As weight and bias of the normalization: a pass over the numbers in place of three.
            return F.layer_norm(x, x.shape[-1:], 1 + scale[0, 0], shift[0, 0])
        normed = F.layer_norm(x, x.shape[-1:])
        out: Tensor = normed * (1 + scale) + shift
        return out


class _Activated(nn.Module):
    """Project, then apply the activation."""

    def __init__(self, width: int, inner: int, sigmoid: bool) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)
        self._sigmoid = sigmoid

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch inner"]:
        x = self.proj(x)
        if not self._sigmoid:
            return F.gelu(x)
        if torch.is_grad_enabled():
            return x * torch.sigmoid(1.702 * x)
        # In place: memory that is asked for anew has to be cleared by the system first.
        return (1.702 * x).sigmoid_().mul_(x)


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int, sigmoid: bool) -> None:
        super().__init__()
        # Index 1 holds dropout in the published code.
        self.net = nn.Sequential(
            _Activated(width, inner, sigmoid), nn.Identity(), nn.Linear(inner, width)
        )

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        out: Tensor = self.net(x)
        return out


class _Block(nn.Module):
    def __init__(self, config: CodeTransformerConfig) -> None:
        super().__init__()
        width = config.width
        heads = (config.num_heads, config.head_channels)
        self.norm1 = _TimedNorm(width, config.num_times)
        self.attn1 = Attention(width, None, *heads, bias=True)
        self.norm2 = _TimedNorm(width, config.num_times)
        self.attn2 = Attention(width, config.context_dim, *heads, bias=True)
        self.norm3 = nn.LayerNorm(width)
        self._inner = config.expansion * width
        self.ff = _FeedForward(width, self._inner, config.gelu == "sigmoid")

    def forward(
        self,
        x: Float[Tensor, "batch position width"],
        row: Int[Tensor, " _"],
        context: KeysValues,
        guided: bool,
    ) -> Float[Tensor, "_ position width"]:
        queries, keys, values = self.attn1.queries_keys_values(self.norm1(x, row))
        if _is_eager_on_cpu(x):
            # All queries read them, and a head's rows are far from each other otherwise.
            keys, values = keys.contiguous(), values.contiguous()
        x = add_to(self.attn1.attend(queries, (keys, values)), x)
        x = cross_attend(self.attn2, lambda tokens: self.norm2(tokens, row), x, context, guided)
        if not _is_eager_on_cpu(x):
            return x + cast(Tensor, self.ff(self.norm3(x)))
        # Position by position it is the same, and what lies between the layers stays in caches.
        for piece in x.view(-1, x.shape[-1]).split(max(1, _INNER_AT_ONCE // self._inner)):
            piece += self.ff(self.norm3(piece))
        return x


def _is_eager_on_cpu(x: Tensor) -> bool:
    """Say whether numbers are computed here and now, by a CPU, and nothing records how."""
    recorded = torch.is_grad_enabled() or torch.compiler.is_compiling()
    return x.device.type == "cpu" and not recorded


class CodeTransformer(nn.Module):
    """Predict the clean code of every position from the states of all and the context.

    Args:
        config: Sizes of the network.
    """

    def __init__(self, config: CodeTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_image_embedding = _GridEmbedding(config)
        self.transformer_blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm_out = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, config.codebook_size)
        if config.marks_query:
            self.context_roles = nn.Embedding(2, config.context_dim)

    @torch.no_grad()
    def begin_with(self, vectors: Float[Tensor, "code channel"]) -> None:
        """Let a new network take codes that stand for much the same for much the same.

        Their embeddings, and the rows that give their logits, become a random linear map of the
        vectors, whitened, with some chance beside it: codes are many, and each is seldom seen.

        Args:
            vectors: One of every code, as in the autoencoder's codebook.
        """
        directions, *_ = torch.linalg.svd(vectors.float() - vectors.mean(0), full_matrices=False)
        whitened = directions / directions.std(dim=0)
        for table in (self.latent_image_embedding.emb.weight[:-1], self.out.weight):
            mapped = whitened @ torch.randn(whitened.shape[1], table.shape[1])
            apart = 0.6 * torch.randn_like(table)
            # As long as those they replace.
            scale = (3 * table.shape[1]) ** -0.5
            table.copy_(scale * (mapped / whitened.shape[1] ** 0.5 + apart))

    def keys_values(self, context: Float[Tensor, "batch entry dim"]) -> tuple[KeysValues, ...]:
        """Project the context for every block, once for all steps of a batch.

        Args:
            context: Embeddings, the query first where it is marked. All zeros are no context,
                and stay zeros.
        """
        if self.config.marks_query:
            context = mark_query(context, self.context_roles.weight)
        blocks = (cast(_Block, block) for block in self.transformer_blocks)
        return tuple(block.attn2.keys_values(context) for block in blocks)

    def forward(
        self,
        states: Int[Tensor, "batch position"],
        times: Int[Tensor, " _"],
        context: tuple[KeysValues, ...],
        guided: bool = False,
    ) -> Float[Tensor, "_ position code"]:
        """Give the logits of every position's clean code.

        Args:
            states: Codes, or ``codebook_size`` for the mask, row by row of the grid.
            times: Their time, 1 to T: one for all samples, or one each.
            context: What ``keys_values`` gave.
            guided: Whether logits without a context are wanted too; one time for all then.

        Returns:
            One row a sample; if guided, the conditional logits of all samples followed by
            the unconditional ones.
        """
        x = self.latent_image_embedding(states)
        # Published tables begin with time 1.
        for block, projected in zip(self.transformer_blocks, context, strict=True):
            x = block(x, times - 1, projected, guided)
        logits: Tensor = self.out(self.norm_out(x))
        return logits
