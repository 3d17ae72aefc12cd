"""Draw tokens by a compiled step: what lies between two tokens is one graph.

All that a step reads and changes has a fixed place in memory: a recorded graph is told nothing
and returns nothing, so a token costs the host one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from rdm_batch.heads.arithmetic import compiled
from rdm_batch.models.transformer import CausalTransformer, Generation
from rdm_batch.sampling.autoregressive import Drawn, TokenSampler, draw

_MOST_BUCKETS = 4
_BUCKET = 64


def buckets(num_positions: int) -> tuple[int, ...]:
    """Give the lengths for which a step is compiled: keys are read up to the next of them.

    Multiples of 64, and so few that compiling them stays cheap: reading up to four lengths
    costs 62.5 % of reading everything for every token, where exact lengths cost 50 %.

    Args:
        num_positions: The last of them.
    """
    wide = _BUCKET * -(-num_positions // (_BUCKET * _MOST_BUCKETS))
    return (*range(wide, num_positions, wide), num_positions)


@dataclass(frozen=True)
class TokenState:
    """Hold what a step reads and changes, in memory that stays where it is.

    Attributes:
        generation: Keys and values, of the neighbors and of the positions so far.
        tokens: The start token and those drawn, one row a sample.
        uniform: The numbers they are drawn with.
        failed_at: Position at which a sample's logits first were not finite, -1 if never.
        position: The next position.
    """

    generation: Generation
    tokens: Int[Tensor, "batch token"]
    uniform: Float64[Tensor, "batch position"]
    failed_at: Int[Tensor, " batch"]
    position: Int[Tensor, " 1"]

    def fix(self) -> None:
        """Tell the compiler that the memory of every tensor stays where it is."""
        kept = [self.tokens, self.uniform, self.failed_at, self.position]
        for block in (*self.generation.neighbors, *self.generation.past):
            kept += block
        for tensor in kept:
            torch._dynamo.mark_static_address(tensor)


class TokenLoop:
    """Draw the tokens of a batch, each by the step of its bucket.

    Args:
        transformer: The network, on its device.
        sampler: How tokens are chosen.
        guide: Turns what the network gives into float32 logits, one row a sample.
        guided: Whether an unconditional branch goes along.
        start_token: What stands before the first token.
    """

    def __init__(
        self,
        transformer: CausalTransformer,
        sampler: TokenSampler,
        guide: Callable[[Tensor], Tensor],
        guided: bool,
        start_token: int,
    ) -> None:
        self._transformer = transformer
        self._sampler = sampler
        self._guide = guide
        self._guided = guided
        self._start_token = start_token
        self._buckets = buckets(transformer.config.num_positions)
        self._device = transformer.positional_encoding.device
        self._step = compiled(self.step, self._device)
        # Graphs are recorded with the addresses of what they read and write: kept by batch
        # size and number of neighbors.
        self._states: dict[tuple[int, int], TokenState] = {}

    def draw(
        self,
        context: Float[Tensor, "batch k_nn dim"],
        uniform: Float64[Tensor, "batch position"],
    ) -> Drawn:
        """Draw the tokens of every sample.

        Args:
            context: Neighbor embeddings as stored, in the type of the network.
            uniform: One number in [0, 1) a token.
        """
        state = self._begin(context, uniform)
        first = 0
        for length in self._buckets:
            for _ in range(first, length):
                self._step(state, length)
            first = length
        return Drawn(state.tokens[:, 1:].clone(), state.failed_at.clone())

    def repeat_once(self, context: Float[Tensor, "batch k_nn dim"]) -> None:
        """Do one step of every bucket, for samples that nobody wants."""
        num_positions = self._buckets[-1]
        uniform = torch.zeros(len(context), num_positions, dtype=torch.float64)
        state = self._begin(context, uniform.to(self._device))
        for length in self._buckets:
            state.position.zero_()
            self._step(state, length)

    def _begin(
        self,
        context: Float[Tensor, "batch k_nn dim"],
        uniform: Float64[Tensor, "batch position"],
    ) -> TokenState:
        """Put a batch where the steps look for it."""
        shape = (context.shape[0], context.shape[1])
        state = self._states.get(shape)
        if state is None:
            count, device = shape[0], self._device
            state = TokenState(
                self._transformer.start(context, self._guided),
                torch.full((count, self._buckets[-1] + 1), self._start_token, device=device),
                uniform.clone(),
                torch.full((count,), -1, device=device),
                torch.zeros(1, dtype=torch.int64, device=device),
            )
            state.fix()
            self._states[shape] = state
            return state
        self._transformer.start(context, self._guided, state.generation)
        state.uniform.copy_(uniform)
        state.failed_at.fill_(-1)
        state.position.zero_()
        return state

    def step(self, state: TokenState, length: int) -> None:
        """Draw the token at the next position, and go on to the one after.

        Args:
            state: Of the batch; only its tensors change.
            length: Above the position: keys are read so far.
        """
        position = state.position
        token = state.tokens.index_select(1, position)[:, 0]
        logits = self._guide(
            self._transformer.next_logits(token, position, state.generation, length)
        )
        bad = ~torch.isfinite(logits).all(dim=1)
        first_time = bad & (state.failed_at < 0)
        state.failed_at.copy_(torch.where(first_time, position, state.failed_at))
        probabilities = self._sampler.probabilities(logits)
        drawn = draw(probabilities, state.uniform.index_select(1, position)[:, 0])
        state.tokens.index_copy_(1, position + 1, drawn[:, None])
        state.position.add_(1)
