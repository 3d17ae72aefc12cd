"""Building blocks shared by the networks.

Attribute names are the parameter names of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

# Heads may differ in number from block to block.
_PerHead = Float[Tensor, "sample _ key head_channel"]
KeysValues = tuple[_PerHead, _PerHead]


def timestep_embedding(
    timesteps: Int[Tensor, " batch"], dim: int, max_period: float = 10_000.0
) -> Float[Tensor, "batch dim"]:
    """Embed timesteps in cosines, then sines (Vaswani et al. 2017, arXiv:1706.03762, Sec. 3.5).

    Args:
        timesteps: Integer times of the forward process.
        dim: Width of the embedding, even.
        max_period: Longest period, in timesteps.

    Returns:
        Float32 embeddings, on the device of ``timesteps``.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


def silu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Apply SiLU to what nothing else reads, in its place where no gradient needs it.

    Memory that is asked for anew has to be cleared by the system first.
    """
    return F.silu(x, inplace=not torch.is_grad_enabled())


def add_to(fresh: Float[Tensor, "*shape"], x: Float[Tensor, "*#shape"]) -> Float[Tensor, "*shape"]:
    """Add to what nothing else reads, in its place where no gradient needs it; see ``silu``."""
    return fresh + x if torch.is_grad_enabled() else fresh.add_(x)


class Attention(nn.Module):
    """Attend from a sequence to itself or to a context, in several heads.

    Args:
        width: Channels of the sequence.
        context_width: Channels of the context; None means attention within the sequence.
        num_heads: Number of heads.
        head_channels: Channels of one head.
        bias: Whether queries, keys and values have one.
    """

    def __init__(
        self,
        width: int,
        context_width: int | None,
        num_heads: int,
        head_channels: int,
        bias: bool = False,
    ) -> None:
        super().__init__()
        inner = num_heads * head_channels
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, inner, bias=bias)
        self.to_k = nn.Linear(context_width or width, inner, bias=bias)
        self.to_v = nn.Linear(context_width or width, inner, bias=bias)
        self.to_out = nn.Sequential(nn.Linear(inner, width))
        self.within = context_width is None
        # One layer in place of the three, where they are read as one; see streamed.
        self.to_all: nn.Module | None = None

    def _split_heads(
        self, x: Float[Tensor, "batch token inner"]
    ) -> Float[Tensor, "batch head token head_channel"]:
        batch, tokens, _ = x.shape
        return x.reshape(batch, tokens, self.num_heads, -1).transpose(1, 2)

    def keys_values(self, context: Float[Tensor, "batch key width"]) -> KeysValues:
        """Project what is attended to, once for as many calls as it stays the same."""
        return self._split_heads(self.to_k(context)), self._split_heads(self.to_v(context))

    def queries_keys_values(
        self, x: Float[Tensor, "batch token width"]
    ) -> tuple[_PerHead, _PerHead, _PerHead]:
        """Project a sequence for attention within it."""
        if self.to_all is None:
            queries, keys, values = self.to_q(x), self.to_k(x), self.to_v(x)
        else:
            queries, keys, values = self.to_all(x).chunk(3, dim=-1)
        return self._split_heads(queries), self._split_heads(keys), self._split_heads(values)

    def forward(
        self,
        x: Float[Tensor, "batch token width"],
        keys_values: KeysValues,
        is_causal: bool = False,
    ) -> Float[Tensor, "batch token width"]:
        """Attend from every token of ``x`` to the given keys.

        Args:
            x: The tokens.
            keys_values: What they attend to.
            is_causal: Whether the i-th token attends to the first i keys only.
        """
        return self.attend(self._split_heads(self.to_q(x)), keys_values, is_causal)

    def attend(
        self,
        queries: Float[Tensor, "sample _ token head_channel"],
        keys_values: KeysValues,
        is_causal: bool = False,
        seen: Bool[Tensor, "1 key"] | None = None,
    ) -> Float[Tensor, "batch token width"]:
        """Attend from queries to the given keys (scale head_channels^-0.5).

        Args:
            queries: One a token.
            keys_values: What they attend to.
            is_causal: Whether the i-th token attends to the first i keys only.
            seen: Which keys are attended to; None means all.
        """
        keys, values = keys_values
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen, is_causal=is_causal
        )
        out: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return out

    @property
    def zero_context_output(self) -> Float[Tensor, " width"]:
        """What attention to an all-zero context gives: the values' bias, where they have one."""
        bias = cast("Tensor | None", self.to_v.bias)
        return cast(Tensor, self.to_out[0].bias if bias is None else self.to_out(bias))


class _Geglu(nn.Module):
    """Project to twice the width and gate one half with the other's exact GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch inner"]:
        value, gate = self.proj(x).chunk(2, dim=-1)
        out: Tensor = value * F.gelu(gate)
        return out


class FeedForward(nn.Module):
    """Apply the gated feed-forward layer (Shazeer 2020, arXiv:2002.05202, GEGLU)."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        # Index 1 holds dropout in the published code, without parameters and with rate 0.
        self.net = nn.Sequential(
            _Geglu(width, expansion * width), nn.Identity(), nn.Linear(expansion * width, width)
        )

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Transform every token by itself."""
        out: Tensor = self.net(x)
        return out


def cross_attend(
    attention: Attention,
    norm: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch token width"],
    context: KeysValues,
    guided: bool,
) -> Float[Tensor, "_ token width"]:
    """Add what the context contributes, splitting the guidance branches where they part.

    Args:
        attention: From the tokens to the context.
        norm: What the tokens go through before.
        x: One row per sample, or, with ``guided``, the conditional rows followed by the
            unconditional ones. Until the first cross-attention both are the same and
            may be given once.
        context: Keys and values, one row per sample.
        guided: Whether an unconditional branch (all-zero context) goes along.

    Returns:
        With ``guided`` two rows per sample, else one.
    """
    if not guided:
        return x + cast(Tensor, attention(norm(x), context))
    num_samples = context[0].shape[0]
    conditional, unconditional = x[:num_samples], x[-num_samples:]
    return torch.cat(
        [
            conditional + attention(norm(conditional), context),
            unconditional + attention.zero_context_output,
        ]
    )


def mark_query(
    context: Float[Tensor, "batch entry dim"], roles: Float[Tensor, "2 dim"]
) -> Float[Tensor, "batch entry dim"]:
    """Add to the first entry, the query, one vector, and another one to the neighbors after it.

    Args:
        context: Embeddings. All zeros are no context, and stay zeros.
        roles: The two vectors.
    """
    of_entries = torch.cat([roles[:1], roles[1:].expand(context.shape[1] - 1, -1)])
    given = (context != 0).any(dim=2).any(dim=1)[:, None, None]
    return torch.where(given, context + of_entries, context)


class TransformerBlock(nn.Module):
    """Apply self-attention, cross-attention to the neighbors, and a feed-forward layer.

    Args:
        width: Channels of the sequence.
        context_dim: Width of the neighbor embeddings.
        num_heads: Heads of both attentions.
        head_channels: Channels of one head.
    """

    def __init__(self, width: int, context_dim: int, num_heads: int, head_channels: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, None, num_heads, head_channels)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context_dim, num_heads, head_channels)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def cross_attend(
        self, x: Float[Tensor, "batch token width"], neighbors: KeysValues, guided: bool
    ) -> Float[Tensor, "_ token width"]:
        """Add what the neighbors contribute; see ``cross_attend``."""
        return cross_attend(self.attn2, self.norm2, x, neighbors, guided)

    def forward(
        self,
        x: Float[Tensor, "batch token width"],
        neighbors: KeysValues,
        guided: bool = False,
        is_causal: bool = False,
    ) -> Float[Tensor, "_ token width"]:
        """Transform a sequence; see ``cross_attend`` for ``guided``."""
        queries, *keys_values = self.attn1.queries_keys_values(self.norm1(x))
        x = x + self.attn1.attend(queries, (keys_values[0], keys_values[1]), is_causal)
        x = self.cross_attend(x, neighbors, guided)
        out: Tensor = x + self.ff(self.norm3(x))
        return out
