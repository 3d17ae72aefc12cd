"""What a recorded CUDA graph returns is overwritten by its next call: emulated without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rdm_batch.heads import decode, knn_discrete, rarm, rdm, token_loop, unet_steps
from rdm_batch.heads.build import build_head, build_head_around
from rdm_batch.models.networks import load_networks
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.sampling import (
    AutoguidanceSpec,
    AutoregressiveSampling,
    DdimSampling,
    DpmSolverSampling,
    MaskReplaceSampling,
    PlmsSampling,
    SamplingSpec,
)
from tests.tiny_heads import TINY_KNN_DISCRETE, TINY_RARM, TINY_RDM, random_weights

_SAMPLINGS = {
    "ddim": (TINY_RDM, DdimSampling(sampler="ddim", num_steps=4, eta=1.0, num_samples=2)),
    "plms": (TINY_RDM, PlmsSampling(sampler="plms", num_steps=5, num_samples=2)),
    "dpm": (TINY_RDM, DpmSolverSampling(sampler="dpm_solver_pp", num_steps=5, num_samples=2)),
    "reuse": (
        TINY_RDM,
        DdimSampling(sampler="ddim", num_steps=5, num_samples=2, reuse_deep_features=2),
    ),
    "tokens": (TINY_RARM, AutoregressiveSampling(sampler="autoregressive", num_samples=2)),
    "codes": (
        TINY_KNN_DISCRETE,
        MaskReplaceSampling(sampler="mask_replace", num_steps=3, num_samples=2),
    ),
}


def _recorder() -> Callable[..., Callable[..., Any]]:
    """Let every call of any recorded function overwrite what the last call of any returned."""
    last: list[Tensor] = []

    def recorded(function: Callable[..., Any], _: torch.device) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            # First: a graph's inputs may be what another one returned.
            for tensor in last:
                tensor.fill_(torch.nan)
            found = function(*args)
            if found is None:
                return None
            tensors = found if isinstance(found, tuple) else (found,)
            last[:] = [tensor.clone() for tensor in tensors]
            return tuple(last) if isinstance(found, tuple) else last[0]

        return run

    return recorded


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize(("architecture", "sampling"), _SAMPLINGS.values(), ids=[*_SAMPLINGS])
def test_nothing_is_kept_that_the_next_call_overwrites(
    architecture: Architecture,
    sampling: SamplingSpec,
    guidance_scale: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampling = sampling.model_copy(update={"guidance_scale": guidance_scale})
    context = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    images = []
    recorded = _recorder()
    for module in (rdm, rarm, token_loop, knn_discrete, unet_steps):
        monkeypatch.setattr(module, "compiled", recorded)
    # Decoded in two parts, by one graph.
    monkeypatch.setattr(decode, "_PIXELS_AT_ONCE_ON_CPU", architecture.image_size**2)
    monkeypatch.setattr(token_loop, "_BUCKET", 4)
    for compile in (False, True):
        weights = random_weights(architecture)
        head = build_head(architecture, weights, sampling, compile=compile)
        images.append(head.generate(context, SampleNoise(0, np.arange(2))).astype(int))
    # Plain heads multiply from packed weights, which moves last digits; predictions in 16 bits
    # are copied in any case, being widened.
    assert np.abs(images[0] - images[1]).mean() < 0.01


def test_two_networks_overwrite_nothing_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = _recorder()
    for module in (rdm, unet_steps):
        monkeypatch.setattr(module, "compiled", recorded)
    sampling = PlmsSampling(
        sampler="plms",
        num_steps=6,
        num_samples=2,
        autoguidance=AutoguidanceSpec(checkpoint="weaker", scale=1.5),
        guidance_interval=(0.2, 20.0),
        reuse_deep_features=2,
    )
    context = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    images = []
    for compile in (False, True):
        weights, others = random_weights(TINY_RDM), random_weights(TINY_RDM)
        others |= {name: 0.9 * value for name, value in others.items() if "diffusion" in name}
        networks, weaker = (load_networks(TINY_RDM, one) for one in (weights, others))
        head = build_head_around(networks, sampling, compile=compile, weaker=weaker)
        images.append(head.generate(context, SampleNoise(0, np.arange(2))).astype(int))
    assert np.abs(images[0] - images[1]).mean() < 0.01
