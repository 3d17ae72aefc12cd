from __future__ import annotations

import numpy as np
import pytest
import torch

from rdm_batch.heads.build import build_head
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.sampling import AutoregressiveSampling, DdimSampling, SamplingSpec
from tests.tiny_heads import TINY_RARM, TINY_RDM, random_weights
from tests.tolerances import CHAIN_BYTES_FRACTION, CHAIN_BYTES_STEP

DDIM = DdimSampling(sampler="ddim", num_samples=8, num_steps=4, eta=1.0, guidance_scale=2.0)
TOKENS = AutoregressiveSampling(sampler="autoregressive", num_samples=8, guidance_scale=2.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is usable here")
@pytest.mark.parametrize(
    ("architecture", "sampling"), [(TINY_RDM, DDIM), (TINY_RARM, TOKENS)], ids=["rdm", "rarm"]
)
def test_a_head_makes_the_images_on_a_gpu_that_it_makes_on_the_cpu(
    architecture: Architecture, sampling: SamplingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    # cuDNN rounds the factors of convolutions to 10 bits unless told otherwise.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    context = np.random.default_rng(0).standard_normal((8, 3, 6)).astype(np.float32)
    cpu, gpu = (
        build_head(architecture, random_weights(architecture), sampling, device).generate(
            context, SampleNoise(0, np.arange(8))
        )
        for device in ("cpu", "cuda")
    )
    steps = np.abs(cpu.astype(int) - gpu.astype(int))
    assert (steps > CHAIN_BYTES_STEP).mean() <= CHAIN_BYTES_FRACTION
