"""Draw tokens one after the other from a model's logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from rdm_batch.errors import SpecError

NextLogits = Callable[[Tensor, int], Tensor]
"""Give the logits of position i + 1's token, given the tokens at position i, and i."""

Choose = Callable[[Tensor, int], Tensor]
"""Draw the tokens at position i from their probabilities."""

Observe = Callable[[int, Tensor, Tensor], None]
"""See, for the draw at position i, the probabilities and the tokens drawn."""


@dataclass(frozen=True)
class TokenSampler:
    """Choose tokens by temperature, top-k and top-p, applied in this order.

    Attributes:
        temperature: Divides the logits; above 0.
        top_k: Keeps the k largest logits, and what equals the k-th. 1 is greedy, None keeps all.
        top_p: Keeps the most probable codes until their sum reaches this (Holtzman et al.
            2020, arXiv:1904.09751), always at least one. None keeps all.

    Raises:
        SpecError: A setting is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise SpecError("sampling.temperature", f"{self.temperature}", "a number above 0")
        if self.top_k is not None and self.top_k < 1:
            raise SpecError("sampling.top_k", f"{self.top_k}", "at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SpecError("sampling.top_p", f"{self.top_p}", "above 0 and at most 1")

    def probabilities(self, logits: Float[Tensor, "batch code"]) -> Float[Tensor, "batch code"]:
        """Turn logits into the probabilities tokens are drawn with."""
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[1]:
            smallest = torch.topk(logits, self.top_k, dim=1).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        probabilities = logits.softmax(dim=1)
        if self.top_p is not None and self.top_p < 1:
            falling, order = probabilities.sort(dim=1, descending=True, stable=True)
            dropped = falling.cumsum(dim=1) - falling >= self.top_p
            falling = falling.masked_fill(dropped, 0.0)
            probabilities = torch.zeros_like(probabilities).scatter(1, order, falling)
            probabilities = probabilities / probabilities.sum(dim=1, keepdim=True)
        return probabilities


def draw(
    probabilities: Float[Tensor, "batch code"], uniform: Float64[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """Draw one token a row where the cumulative probability passes a uniform number.

    One number a token, where torch.multinomial takes one for every code: those would cost
    more than the transformer on a GPU, since a sample's numbers are drawn on the CPU.

    Args:
        probabilities: At least one above 0 in every row; need not sum to exactly 1.
        uniform: Numbers in [0, 1).
    """
    cumulative = probabilities.double().cumsum(dim=1)
    passed = cumulative <= uniform[:, None] * cumulative[:, -1:]
    return passed.sum(dim=1)


@dataclass(frozen=True)
class Drawn:
    """Hold drawn tokens.

    Attributes:
        tokens: One row a sample.
        failed_at: Position at which a sample's logits first were not finite, -1 if never.
    """

    tokens: Int[Tensor, "batch position"]
    failed_at: Int[Tensor, " batch"]


def sample_tokens(
    next_logits: NextLogits,
    start: Int[Tensor, " batch"],
    num_tokens: int,
    sampler: TokenSampler,
    choose: Choose,
    observe: Observe | None = None,
) -> Drawn:
    """Draw a sequence token by token.

    Args:
        next_logits: The model, which remembers the tokens it was given.
        start: The start token, once for every sample.
        num_tokens: Tokens to draw.
        sampler: How each is chosen.
        choose: Draws a token from its probabilities.
        observe: Sees every draw.
    """
    token = start
    tokens = start.new_empty(len(start), num_tokens)
    failed_at = torch.full_like(start, -1)
    for position in range(num_tokens):
        logits = next_logits(token, position)
        bad = ~torch.isfinite(logits).all(dim=1)
        failed_at = torch.where(bad & (failed_at < 0), position, failed_at)
        probabilities = sampler.probabilities(logits)
        token = choose(probabilities, position)
        tokens[:, position] = token
        if observe is not None:
            observe(position, probabilities, token)
    return Drawn(tokens, failed_at)
