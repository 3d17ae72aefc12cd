"""Draw all codes of an image together, from masks to codes, in a few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from rdm_batch.errors import SpecError
from rdm_batch.sampling.autoregressive import draw
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule

PredictClean = Callable[[Tensor, int, Tensor], Tensor]
"""Give log p(x_0) of some tokens, one row each, given all states, their time, and which tokens."""

StepUniform = Callable[[int], Tensor]
"""Give the numbers in [0, 1) of step i (from 0), two for each token of each sample."""


def guide_codes(
    branches: Float[Tensor, "rows *position code"], scale: float
) -> Float[Tensor, "asked *position code"]:
    """Extrapolate from unconditional to conditional log-probabilities, and normalize.

    Classifier-free guidance over codes (Tang et al. 2022, arXiv:2205.16007):
    log p = log p_u + s (log p_c - log p_u).

    Args:
        branches: Logits of all samples or tokens with their context, then those without.
        scale: s; 1 gives the conditional ones back.
    """
    conditional, unconditional = branches.log_softmax(-1).chunk(2)
    return unconditional.lerp(conditional, scale).log_softmax(-1)


def truncated(clean: Float64[Tensor, "*rows code"], share: float) -> Float64[Tensor, "*rows code"]:
    """Keep the most likely codes up to a cumulative share, at least one, and normalize.

    Args:
        clean: p(x_0). It is truncated, and not the posterior: see arXiv:2111.14822, 4.2.
        share: Above 0; 1 keeps all.
    """
    if share >= 1:
        return clean
    falling, order = clean.sort(dim=-1, descending=True, stable=True)
    dropped = falling.cumsum(-1) - falling >= share
    kept = torch.zeros_like(clean).scatter(-1, order, falling.masked_fill(dropped, 0.0))
    return kept / kept.sum(-1, keepdim=True)


@dataclass(frozen=True)
class CodeSampler:
    """Turn masks into codes in a fixed number of steps.

    Attributes:
        schedule: The forward process.
        num_steps: Evaluations of the network, 1 to T.
        truncation: Share of p(x_0) whose most likely codes are kept; 1 keeps all.
        purity: None draws from the posterior. A number, 0 or more, is the sharpening r of
            purity-ordered sampling (arXiv:2205.16007): every step sets as many masked tokens
            as are left for each of the remaining steps, those preferred of which the network
            is surest, and a token that is set stays.

    Raises:
        SpecError: A setting is out of range.
    """

    schedule: MaskReplaceSchedule
    num_steps: int
    truncation: float = 1.0
    purity: float | None = None

    def __post_init__(self) -> None:
        self.schedule.steps(self.num_steps)
        if not 0 < self.truncation <= 1:
            raise SpecError("sampling.truncation", f"{self.truncation}", "above 0 and at most 1")
        if self.purity is not None and not 0 <= self.purity < float("inf"):
            raise SpecError("sampling.purity", f"{self.purity}", "a number, 0 or more")

    def sample(
        self,
        predict: PredictClean,
        num_samples: int,
        num_tokens: int,
        step_uniform: StepUniform,
        device: torch.device | str = "cpu",
    ) -> Int[Tensor, "batch position"]:
        """Draw the codes of every sample; everything random comes from ``step_uniform``."""
        states = torch.full((num_samples, num_tokens), self.schedule.mask, device=device)
        times = self.schedule.steps(self.num_steps).tolist()
        for step, (later, earlier) in enumerate(pairwise(times)):
            uniform = step_uniform(step).to(device)
            if self.purity is None:
                self._draw_earlier(predict, states, uniform[..., 0], later, earlier)
            else:
                self._set_purest(predict, states, uniform, later, self.num_steps - step)
        return states

    def _draw_earlier(
        self,
        predict: PredictClean,
        states: Int[Tensor, "batch position"],
        uniform: Float64[Tensor, "batch position"],
        later: int,
        earlier: int,
    ) -> None:
        """Draw the states at an earlier time in place.

        Most tokens keep their state. Those that their number keeps whatever the network says, or
        whatever it says of other codes than theirs, are left out of all that takes every code.
        """
        asked = ~self.schedule.stays_masked(states, uniform, later, earlier)
        log_clean, own = predict(states, later, asked), states[asked]
        stays = self.schedule.surely_stays(
            log_clean, own, uniform[asked], later, earlier, at_least=self.truncation < 1
        )
        moving = asked.masked_scatter(asked, ~stays)
        clean = truncated(log_clean[~stays].double().exp(), self.truncation)
        chances = self.schedule.posterior(clean, states[moving], later, earlier)
        states[moving] = draw(chances, uniform[moving])

    def _set_purest(
        self,
        predict: PredictClean,
        states: Int[Tensor, "batch position"],
        uniform: Float64[Tensor, "batch position 2"],
        later: int,
        steps_left: int,
    ) -> None:
        """Set some of the masked tokens in place."""
        is_masked = states == self.schedule.mask
        log_clean = predict(states, later, is_masked)
        surest = log_clean.max(-1).values.double()
        # Drawing without replacement in proportion to purity: the largest of log purity plus
        # Gumbel noise (Kool et al. 2019, arXiv:1903.06059).
        noise = uniform[..., 1].clamp(min=torch.finfo(torch.float64).tiny)
        rank = torch.full_like(noise, -torch.inf).masked_scatter(is_masked, surest)
        rank = rank - (-noise.log()).log()
        number = -(-is_masked.sum(1) // steps_left)
        place = rank.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
        chosen = is_masked & (place < number[:, None])
        of_masked = chosen[is_masked]
        sharpness = 1 + (self.purity or 0.0) * surest[of_masked].exp()
        sharpened = (sharpness[:, None] * log_clean[of_masked].double()).softmax(-1)
        states[chosen] = draw(truncated(sharpened, self.truncation), uniform[..., 0][chosen])
