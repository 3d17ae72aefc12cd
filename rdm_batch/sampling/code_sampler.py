"""Draw all codes of an image together, from masks to codes, in a few steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor

from rdm_batch.errors import SpecError
from rdm_batch.sampling.autoregressive import draw
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule

PredictClean = Callable[[Tensor, int, Tensor | None], Tensor]
"""Give log p(x_0) of some tokens, one row each, given all states, their time, and which tokens
(see ``chosen``)."""

StepUniform = Callable[[int], Tensor]
"""Give the numbers in [0, 1) of step i (from 0), two for each token of each sample."""


def guide_codes(
    branches: Float[Tensor, "rows *position code"], scale: float, plausibility: float = 0.0
) -> Float[Tensor, "asked *position code"]:
    """Extrapolate from unconditional to conditional log-probabilities, and normalize.

    Classifier-free guidance over codes (Tang et al. 2022, arXiv:2205.16007):
    log p = log p_u + s (log p_c - log p_u).

    Args:
        branches: Logits of all samples or tokens with their context, then those without.
        scale: s; 1 gives the conditional ones back.
        plausibility: Codes with less than this times the conditional probability of the likeliest
            one get none (Li et al. 2023, arXiv:2210.15097, equation 2): of codes that neither
            finds likely the ratio is mostly error, and s raises it to a power. 0 keeps all.
    """
    conditional, unconditional = branches.log_softmax(-1).chunk(2)
    guided = unconditional.lerp(conditional, scale)
    if plausibility > 0:
        least = conditional.amax(-1, keepdim=True) + math.log(plausibility)
        guided = guided.masked_fill(conditional < least, -torch.inf)
    return guided.log_softmax(-1)


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


def chosen(
    x: Shaped[Tensor, "batch position *rest"], which: Bool[Tensor, "batch position"] | None
) -> Shaped[Tensor, " token *rest"]:
    """Give what belongs to some tokens, one after the other; None chooses all."""
    return x.flatten(0, 1) if which is None else x[which]


def _placed(
    x: Shaped[Tensor, "batch position"],
    which: Bool[Tensor, "batch position"] | None,
    values: Shaped[Tensor, " token"],
) -> Shaped[Tensor, "batch position"]:
    """Put values where ``chosen`` takes them from."""
    return values.reshape(x.shape) if which is None else x.masked_scatter(which, values)


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
        plausibility: Of guidance; see ``guide_codes``. 0 guides among all codes.

    Raises:
        SpecError: A setting is out of range.
    """

    schedule: MaskReplaceSchedule
    num_steps: int
    truncation: float = 1.0
    purity: float | None = None
    plausibility: float = 0.0

    def __post_init__(self) -> None:
        self.schedule.steps(self.num_steps)
        if not 0 < self.truncation <= 1:
            raise SpecError("sampling.truncation", f"{self.truncation}", "above 0 and at most 1")
        if self.purity is not None and not 0 <= self.purity < float("inf"):
            raise SpecError("sampling.purity", f"{self.purity}", "a number, 0 or more")
        if not 0 <= self.plausibility < 1:
            raise SpecError("sampling.plausibility", f"{self.plausibility}", "0 or more, below 1")

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
                states = self._earlier(predict, states, uniform[..., 0], later, earlier)
            else:
                states = self._with_purest(predict, states, uniform, later, self.num_steps - step)
        return states

    def _earlier(
        self,
        predict: PredictClean,
        states: Int[Tensor, "batch position"],
        uniform: Float64[Tensor, "batch position"],
        later: int,
        earlier: int,
    ) -> Int[Tensor, "batch position"]:
        """Draw the states at an earlier time.

        Most tokens keep their state. Those that their number keeps whatever the network says, or
        whatever it says of other codes than theirs, are left out of all that takes every code.
        """
        moving = None
        if _may_choose(states.device):
            moving = ~self.schedule.stays_masked(states, uniform, later, earlier)
        log_clean = predict(states, later, moving)
        if moving is not None:
            stays = self.schedule.surely_stays(
                log_clean, states[moving], uniform[moving], later, earlier, self.truncation < 1
            )
            moving, log_clean = moving.masked_scatter(moving, ~stays), log_clean[~stays]
        clean = truncated(log_clean.double().exp(), self.truncation)
        chances = self.schedule.posterior(clean, chosen(states, moving), later, earlier)
        return _placed(states, moving, draw(chances, chosen(uniform, moving)))

    def _with_purest(
        self,
        predict: PredictClean,
        states: Int[Tensor, "batch position"],
        uniform: Float64[Tensor, "batch position 2"],
        later: int,
        steps_left: int,
    ) -> Int[Tensor, "batch position"]:
        """Set some of the masked tokens."""
        is_masked = states == self.schedule.mask
        asked = is_masked if _may_choose(states.device) else None
        log_clean = predict(states, later, asked)
        surest = log_clean.max(-1).values.double()
        # Drawing without replacement in proportion to purity: the largest of log purity plus
        # Gumbel noise (Kool et al. 2019, arXiv:1903.06059).
        noise = uniform[..., 1].clamp(min=torch.finfo(torch.float64).tiny)
        rank = _placed(torch.zeros_like(noise), asked, surest) - (-noise.log()).log()
        rank = rank.masked_fill(~is_masked, -torch.inf)
        number = -(-is_masked.sum(1) // steps_left)
        place = rank.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
        becomes_set = is_masked & (place < number[:, None])
        drawn = None
        if asked is not None:
            drawn, of_asked = becomes_set, becomes_set[asked]
            log_clean, surest = log_clean[of_asked], surest[of_asked]
        sharpness = 1 + (self.purity or 0.0) * surest.exp()
        sharpened = truncated(
            (sharpness[:, None] * log_clean.double()).softmax(-1), self.truncation
        )
        codes = _placed(states, drawn, draw(sharpened, chosen(uniform[..., 0], drawn)))
        return torch.where(becomes_set, codes, states)


def _may_choose(device: torch.device) -> bool:
    """Say whether tokens are left out: on a GPU the host would wait for how many are left."""
    return device.type == "cpu"
