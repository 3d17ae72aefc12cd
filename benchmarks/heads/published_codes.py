"""Codes drawn by mask-and-replace diffusion as published, written plainly, to measure against.

From the equations of Gu et al. 2022 (arXiv:2111.14822) and, for guidance, Tang et al. 2022
(arXiv:2205.16007). Float32 and eager; both guidance branches whole, stacked in one batch; keys
and values of the context computed anew in every step, attention as explicit products and a
softmax; the posterior of every token over all codes and the mask, in logarithms, and Gumbel noise
for each of them. Nothing is truncated. The network's own modules hold the weights; only what is
done with them differs. The numbers agree with the head's (a test says so).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.heads.published_procedure import attend
from rdm_batch.models.code_transformer import CodeTransformer
from rdm_batch.models.layers import Attention, mark_query
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule

Attend = Callable[[Attention, Tensor, Tensor], Tensor]
"""Attend from a sequence to a context."""


def predict_codes(
    transformer: CodeTransformer,
    states: Tensor,
    times: Tensor,
    context: Tensor,
    attend: Attend = attend,
) -> Tensor:
    """Give the logits of every clean code, each row with its own time and context.

    Args:
        transformer: Network and weights.
        states: Codes or the mask, (rows, positions).
        times: 1 to T, (rows,).
        context: Query and neighbors of every row as stored, zeros for none.
        attend: How attention is computed.
    """
    if transformer.config.marks_query:
        context = mark_query(context, transformer.context_roles.weight)
    x = transformer.latent_image_embedding(states)
    for block in transformer.transformer_blocks:
        normed = _timed_norm(block.norm1, x, times)
        x = attend(block.attn1, normed, normed) + x
        x = attend(block.attn2, _timed_norm(block.norm2, x, times), context) + x
        hidden = block.ff.net[0].proj(block.norm3(x))
        if transformer.config.gelu == "sigmoid":
            hidden = hidden * torch.sigmoid(1.702 * hidden)
        else:
            hidden = F.gelu(hidden)
        x = block.ff.net[2](hidden) + x
    return cast(Tensor, transformer.out(transformer.norm_out(x)))


def _timed_norm(norm: nn.Module, x: Tensor, times: Tensor) -> Tensor:
    """Normalize; scale and shift as the time says (Gu et al. 2022, Section 4.1, AdaLN)."""
    scale, shift = norm.linear(F.silu(norm.emb(times - 1)))[:, None].chunk(2, dim=2)
    return F.layer_norm(x, (x.shape[2],)) * (1 + scale) + shift


def log_clean_codes(
    transformer: CodeTransformer,
    scale: float,
    states: Tensor,
    time: int,
    context: Tensor,
    attend: Attend = attend,
) -> Tensor:
    """Give log p(x_0 | x_t), guided away from that without a context if the scale is above 1."""
    times = torch.full((len(states),), time, device=states.device)
    if scale == 1:
        return predict_codes(transformer, states, times, context, attend).log_softmax(2)
    both = torch.cat([context, torch.zeros_like(context)])
    twice = torch.cat([states, states]), torch.cat([times, times]), both
    logits = predict_codes(transformer, *twice, attend)
    conditional, unconditional = logits.log_softmax(2).chunk(2)
    guided = unconditional + scale * (conditional - unconditional)
    return guided - guided.logsumexp(2, keepdim=True)


def log_posterior(
    schedule: MaskReplaceSchedule, log_clean: Tensor, states: Tensor, later: int, earlier: int
) -> Tensor:
    """Give log p(x_s | x_t), of every code and of the mask.

    By Bayes: q(x_t | x_s) times the sum over x_0 of q(x_s | x_0) p(x_0) / q(x_t | x_0).

    Args:
        schedule: The forward process.
        log_clean: log p(x_0), (rows, positions, codes).
        states: x_t, (rows, positions).
        later: t.
        earlier: s.
    """
    num_codes = schedule.num_codes
    kept_t, masked_t, replaced_t = _cumulative(schedule, later)
    kept_s, masked_s, replaced_s = _cumulative(schedule, earlier)
    keep = kept_t / kept_s
    become_mask = 1 - (1 - masked_t) / (1 - masked_s)
    replace = (1 - keep - become_mask) / num_codes
    is_mask = (states == schedule.mask)[..., None]
    log_own = F.one_hot(states, num_codes + 1)[..., :num_codes].float().clamp(min=1e-30).log()
    # q(x_t | x_0 = i), for every i.
    log_seen = torch.logaddexp(log_own + _log(kept_t), torch.tensor(_log(replaced_t)))
    log_seen = torch.where(is_mask, _log(masked_t), log_seen)
    weight = log_clean - log_seen
    total = weight.logsumexp(2, keepdim=True)
    before = torch.logaddexp(weight + _log(kept_s), total + _log(replaced_s))
    # q(x_t | x_s = k), for every k.
    log_step = torch.logaddexp(log_own + _log(keep), torch.tensor(_log(replace)))
    log_step = torch.where(is_mask, _log(become_mask), log_step)
    stays_mask = torch.where(is_mask, total + _log(masked_s), -math.inf)
    return torch.cat([before + log_step, stays_mask], dim=2)


def _cumulative(schedule: MaskReplaceSchedule, time: int) -> tuple[float, float, float]:
    tables = (schedule.kept, schedule.masked, schedule.replaced)
    kept, masked, replaced = (float(table[time]) for table in tables)
    return kept, masked, replaced


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def by_gumbel_noise(log_chances: Tensor, step: int) -> Tensor:
    """Draw a state of every token: the largest of its logarithms plus Gumbel noise."""
    noise = torch.rand_like(log_chances).clamp(min=1e-30)
    return (log_chances - (-noise.log()).log()).argmax(2)


def sample_codes(
    transformer: CodeTransformer,
    schedule: MaskReplaceSchedule,
    num_steps: int,
    scale: float,
    context: Tensor,
    choose: Callable[[Tensor, int], Tensor] = by_gumbel_noise,
) -> Tensor:
    """Draw the codes of every row of a context, from masks in ``num_steps`` steps."""
    shape = (len(context), transformer.config.num_positions)
    states = torch.full(shape, schedule.mask, device=context.device)
    for step, (later, earlier) in enumerate(pairwise(schedule.steps(num_steps).tolist())):
        log_clean = log_clean_codes(transformer, scale, states, later, context)
        states = choose(log_posterior(schedule, log_clean, states, later, earlier), step)
    return states
