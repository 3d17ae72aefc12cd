from __future__ import annotations

import pytest
import torch

from benchmarks.heads import published_codes
from benchmarks.heads import published_procedure as published
from rdm_batch.heads.knn_continuous import KnnContinuousHead
from rdm_batch.heads.knn_discrete import KnnDiscreteHead
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.networks import (
    KnnDiscreteNetworks,
    RarmNetworks,
    RdmNetworks,
    load_networks,
)
from rdm_batch.sampling.autoregressive import TokenSampler, draw
from rdm_batch.sampling.code_sampler import CodeSampler
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.families import RdmArchitecture
from rdm_batch.specs.networks import NoiseScheduleConfig
from tests.compare import relative_error
from tests.tiny_heads import (
    TINY_KNN_CONTINUOUS,
    TINY_KNN_DISCRETE,
    TINY_RARM,
    TINY_RDM,
    random_weights,
)
from tests.tolerances import REORDERED_REL


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize(
    ("architecture", "make"),
    [(TINY_RDM, RdmHead), (TINY_KNN_CONTINUOUS, KnnContinuousHead)],
    ids=["rdm", "knn"],
)
def test_plain_diffusion_draws_and_decodes_what_the_head_does(
    architecture: RdmArchitecture, make: type[RdmHead], scale: float
) -> None:
    networks = load_networks(architecture, random_weights(architecture))
    assert isinstance(networks, RdmNetworks)
    solver = DdimSolver(NoiseSchedule.from_config(NoiseScheduleConfig()), 3, eta=1.0)
    context, start = _normal(2, 3, 6), _normal(2, 3, 8, 8)
    with torch.inference_mode():
        plain = published.sample_latents(
            networks.unet, solver, scale, context, start, lambda step: start * step
        )
        images = published.decode(networks.autoencoder, plain)
    head = make(networks, solver, scale)
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


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("num_steps", [5, 20])
@pytest.mark.parametrize("gelu", ["exact", "sigmoid"])
def test_plain_mask_and_replace_draws_and_decodes_what_the_head_does(
    gelu: str, num_steps: int, scale: float
) -> None:
    transformer = TINY_KNN_DISCRETE.transformer.model_copy(update={"gelu": gelu})
    architecture = TINY_KNN_DISCRETE.model_copy(update={"transformer": transformer})
    networks = load_networks(architecture, random_weights(architecture))
    assert isinstance(networks, KnnDiscreteNetworks)
    schedule = MaskReplaceSchedule.linear(16, 20)
    context = _normal(2, 3, 6)
    uniform = torch.rand(
        num_steps, 2, 16, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )

    def choose(log_chances: torch.Tensor, step: int) -> torch.Tensor:
        chances = log_chances.exp().flatten(0, 1)
        return draw(chances, uniform[step, ..., 0].flatten()).reshape(2, 16)

    with torch.inference_mode():
        codes = published_codes.sample_codes(
            networks.transformer, schedule, num_steps, scale, context, choose
        )
        latents = networks.autoencoder.quantize.lookup(codes.reshape(2, 4, 4))
        images = published.decode_quantized(networks.autoencoder, latents)
    head = KnnDiscreteHead(networks, CodeSampler(schedule, num_steps), scale)
    drawn, failed_at = head.sample_codes(context, 2, lambda step: uniform[step])
    # Float32 and double differ by 1e-6 of a token's chances; no number lies so near a border.
    assert torch.equal(drawn, codes)
    assert not failed_at.any()
    assert relative_error(images, head.decode(drawn)) <= REORDERED_REL


@torch.inference_mode()
@pytest.mark.parametrize(("later", "earlier"), [(100, 99), (100, 0), (52, 48), (1, 0)])
def test_the_plain_posterior_is_that_of_the_package(later: int, earlier: int) -> None:
    schedule = MaskReplaceSchedule.linear(11, 100)
    log_clean = _normal(2, 24, 11).log_softmax(2)
    states = torch.arange(24).remainder(12).expand(2, -1)
    if later == 100:
        states = torch.full_like(states, schedule.mask)
    plain = published_codes.log_posterior(schedule, log_clean, states, later, earlier)
    expected = schedule.posterior(log_clean.double().exp(), states, later, earlier)
    # Float32 logarithms of up to 30 in magnitude.
    torch.testing.assert_close(plain.exp().double(), expected, rtol=1e-5, atol=1e-7)


def test_gumbel_noise_draws_by_the_chances() -> None:
    torch.manual_seed(0)
    chances = torch.tensor([0.5, 0.3, 0.2, 0.0])
    drawn = published_codes.by_gumbel_noise(chances.log().expand(1, 20_000, 4), 0)
    # Standard errors below 0.0036.
    shares = drawn.flatten().bincount(minlength=4) / 20_000
    torch.testing.assert_close(shares, chances, rtol=0, atol=0.015)
