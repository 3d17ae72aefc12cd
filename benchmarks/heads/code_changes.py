"""Each change from the published step of the head over codes to its own, one upon the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.heads import published_codes, published_procedure
from benchmarks.heads.code_procedures import MiddleStep, code_networks, states_between
from benchmarks.heads.procedures import Settings, normal
from benchmarks.heads.variants import Variant
from rdm_batch.models.layers import Attention
from rdm_batch.models.packed import can_pack, pack_linears
from rdm_batch.sampling.code_sampler import chosen, guide_codes
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule
from rdm_batch.specs.families import KnnDiscreteArchitecture

_NUM_STEPS = 25


def code_variants(
    architecture: KnnDiscreteArchitecture, settings: Settings, device: str
) -> Iterator[Variant]:
    """Take one of 25 steps, both guidance branches; variants change the network they are given."""
    sizes = architecture.transformer
    transformer = code_networks(architecture, device).transformer
    schedule = MaskReplaceSchedule.linear(sizes.codebook_size, sizes.num_times)
    sampler = MiddleStep(schedule, min(_NUM_STEPS, schedule.num_times))
    later, earlier = sampler.times
    scale = settings.guidance_scale
    context = normal((settings.batch, settings.k_nn, sizes.context_dim), device)
    states = states_between(schedule, (settings.batch, sizes.num_positions), device)

    def finish(log_clean: Tensor) -> Tensor:
        """Draw from the posterior of all tokens, in logarithms."""
        chances = published_codes.log_posterior(schedule, log_clean, states, later, earlier)
        return published_codes.by_gumbel_noise(chances, 0)

    def plainly(attend: published_codes.Attend) -> Tensor:
        return finish(
            published_codes.log_clean_codes(transformer, scale, states, later, context, attend)
        )

    yield Variant("published procedure", True, lambda: plainly(published_procedure.attend))
    yield Variant("fused attention", True, lambda: plainly(_fused))
    times = torch.full((1,), later, device=device)
    both = torch.cat([context, torch.zeros_like(context)])

    def fewer_passes() -> Tensor:
        logits = transformer(torch.cat([states, states]), times, transformer.keys_values(both))
        return finish(guide_codes(logits, scale))

    yield Variant(
        "normalizations in a pass, feed-forward layers in pieces (CPU)", False, fewer_passes
    )
    projected = transformer.keys_values(context)

    def apart() -> Tensor:
        return finish(guide_codes(transformer(states, times, projected, guided=True), scale))

    yield Variant("context projected once, nothing for the zero context", True, apart)
    shape = (settings.batch, sizes.num_positions)
    uniform = torch.rand(
        (*shape, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(device)

    def predict(states: Tensor, time: int, asked: Tensor | None) -> Tensor:
        logits = transformer(states, times, projected, guided=True)
        branches = [chosen(branch, asked) for branch in logits.split(settings.batch)]
        return guide_codes(torch.cat(branches), scale)

    def step() -> Tensor:
        return sampler.sample(predict, *shape, lambda _: uniform, device)

    yield Variant("all codes of those tokens alone that may change (CPU)", False, step)
    if device == "cpu" and can_pack(torch.float32):
        pack_linears(transformer)
    yield Variant("packed linear layers (CPU)", False, step)


def _fused(attention: Attention, x: Tensor, context: Tensor) -> Tensor:
    attended: Tensor = attention(x, attention.keys_values(context))
    return attended
