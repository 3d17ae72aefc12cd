from __future__ import annotations

import pytest
import torch

from benchmarks.heads import published_procedure as published
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.networks import RarmNetworks, RdmNetworks, load_networks
from rdm_batch.sampling.autoregressive import TokenSampler
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.networks import NoiseScheduleConfig
from tests.compare import relative_error
from tests.tiny_heads import TINY_RARM, TINY_RDM, random_weights
from tests.tolerances import REORDERED_REL


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_plain_diffusion_draws_and_decodes_what_the_head_does(scale: float) -> None:
    networks = load_networks(TINY_RDM, random_weights(TINY_RDM))
    assert isinstance(networks, RdmNetworks)
    solver = DdimSolver(NoiseSchedule.from_config(NoiseScheduleConfig()), 3, eta=1.0)
    context, start = _normal(2, 3, 6), _normal(2, 3, 8, 8)
    with torch.inference_mode():
        plain = published.sample_latents(
            networks.unet, solver, scale, context, start, lambda step: start * step
        )
        images = published.decode(networks.autoencoder, plain)
    head = RdmHead(networks, solver, scale)
    latents = head.sample_latents(context, start, lambda step: start * step)
    assert relative_error(plain, latents) <= REORDERED_REL
    assert relative_error(images, head.decode(plain)) <= REORDERED_REL


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_plain_autoregression_draws_and_decodes_what_the_head_does(scale: float) -> None:
    networks = load_networks(TINY_RARM, random_weights(TINY_RARM))
    assert isinstance(networks, RarmNetworks)
    context, noise = _normal(2, 3, 6), _normal(16, 2, 16).abs()
    sampler = TokenSampler(top_k=8)
    sequence = torch.full((2, 1), TINY_RARM.start_token)
    with torch.inference_mode():
        for position in range(16):
            logits = published.guided_logits(networks.transformer, scale, sequence, context)
            drawn = (sampler.probabilities(logits) / noise[position]).argmax(1)
            sequence = torch.cat([sequence, drawn[:, None]], dim=1)
        latents = networks.autoencoder.quantize.lookup(sequence[:, 1:].reshape(2, 4, 4))
        images = published.decode_quantized(networks.autoencoder, latents)
    head = RarmHead(networks, sampler, scale)
    drawn = head.sample_tokens(context, lambda p, position: (p / noise[position]).argmax(1))
    assert torch.equal(drawn.tokens, sequence[:, 1:])
    assert relative_error(images, head.decode(drawn.tokens)) <= REORDERED_REL
