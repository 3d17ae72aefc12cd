from __future__ import annotations

import pytest
import torch

from rdm_batch.heads.build import build_head_around
from rdm_batch.heads.knn_discrete import KnnDiscreteHead
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.heads.work import count_flops, flops_per_sample, measure_peak
from rdm_batch.models.networks import build_networks
from rdm_batch.sampling.autoregressive import draw
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.presets import PRESETS
from rdm_batch.specs.sampling import (
    AutoguidanceSpec,
    AutoregressiveSampling,
    DdimSampling,
    MaskReplaceSampling,
    PlmsSampling,
    SamplingSpec,
)
from tests.heads.pretend_cuda import pretended_cuda
from tests.tiny_heads import TINY_KNN_CONTINUOUS, TINY_KNN_DISCRETE, TINY_RARM, TINY_RDM

_CASES = {
    "ddim": (TINY_RDM, DdimSampling(sampler="ddim", num_steps=3, eta=1.0, num_samples=4)),
    "plms": (TINY_RDM, PlmsSampling(sampler="plms", num_steps=6, num_samples=4)),
    "cheaper": (
        TINY_RDM,
        PlmsSampling(
            sampler="plms",
            num_steps=7,
            num_samples=4,
            guidance_scale=2.0,
            guidance_interval=(0.5, 5.0),
            reuse_deep_features=2,
        ),
    ),
    "tokens": (TINY_RARM, AutoregressiveSampling(sampler="autoregressive", num_samples=4)),
    "query": (TINY_KNN_CONTINUOUS, DdimSampling(sampler="ddim", num_steps=3, num_samples=4)),
    "codes": (
        TINY_KNN_DISCRETE,
        MaskReplaceSampling(sampler="mask_replace", num_steps=3, num_samples=4),
    ),
}


def _count_whole(architecture: Architecture, sampling: SamplingSpec) -> float:
    """Count everything that a head does for one sample, step by step."""
    with torch.device("meta"):
        networks = build_networks(architecture)
    head = build_head_around(networks, sampling, "meta")
    context = torch.zeros(1, 3, architecture.context_dim, device="meta")

    def run() -> None:
        if isinstance(head, RdmHead):
            x = torch.zeros(1, *head.architecture.latent_shape, device="meta")
            head.decode(head.sample_latents(context, x, lambda _: x))
        elif isinstance(head, RarmHead):
            uniform = torch.zeros(1, dtype=torch.float64, device="meta")
            head.decode(head.sample_tokens(context, lambda p, _: draw(p, uniform)).tokens)
        else:
            assert isinstance(head, KnnDiscreteHead)
            positions = head.architecture.transformer.num_positions
            numbers = torch.zeros(1, positions, 2, dtype=torch.float64, device="meta")
            head.decode(head.sample_codes(context, 1, lambda _: numbers)[0])

    return count_flops(run)


@pytest.mark.parametrize(
    ("name", "guidance_scale"), [*((name, 2.0) for name in _CASES), ("ddim", 1.0), ("tokens", 1.0)]
)
def test_what_is_done_often_is_counted_once_and_summed_up(name: str, guidance_scale: float) -> None:
    architecture, sampling = _CASES[name]
    sampling = sampling.model_copy(update={"guidance_scale": guidance_scale})
    counted = flops_per_sample(architecture, sampling, 3)
    assert counted == _count_whole(architecture, sampling) > 0


def test_a_published_head_takes_what_was_counted_for_it() -> None:
    # docs/decisions/heads-leave-work-out.md: 0.45 TFLOP an image, decoding included.
    sampling = AutoregressiveSampling(sampler="autoregressive", num_samples=1, guidance_scale=2.0)
    assert flops_per_sample(PRESETS["rarm-imagenet-256"], sampling, 4) == pytest.approx(
        0.45e12, rel=0.01
    )


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_the_peak_is_that_of_one_large_product(precision: str) -> None:
    # A pretended GPU takes a millisecond for everything.
    with pretended_cuda():
        assert measure_peak(precision) == 2 * 8192**3 / 1e-3  # type: ignore[arg-type]


def test_a_weaker_head_is_counted_at_guided_steps() -> None:
    def counted(interval: tuple[float, float] | None) -> float:
        sampling = DdimSampling(
            sampler="ddim",
            num_steps=6,
            num_samples=4,
            autoguidance=AutoguidanceSpec(checkpoint="weaker", scale=2.0),
            guidance_interval=interval,
        )
        return flops_per_sample(TINY_RDM, sampling, 3, TINY_RDM)

    plain = flops_per_sample(TINY_RDM, DdimSampling(sampler="ddim", num_steps=6, num_samples=4), 3)
    assert 1.5 * plain < counted(None) < 2 * plain
    assert plain < counted((0.5, 5.0)) < counted(None)
