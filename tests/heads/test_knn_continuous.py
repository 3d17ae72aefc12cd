from __future__ import annotations

import numpy as np
import pytest
import torch

from rdm_batch.heads.build import build_head
from rdm_batch.heads.knn_continuous import KnnContinuousHead
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.sampling import DdimSampling, DpmSolverSampling, PlmsSampling, SamplingSpec
from tests.tiny_heads import TINY_KNN_CONTINUOUS, random_weights

SAMPLERS: list[SamplingSpec] = [
    DdimSampling(sampler="ddim", eta=1.0, num_samples=8, num_steps=4),
    PlmsSampling(sampler="plms", num_samples=8, num_steps=4),
    DpmSolverSampling(sampler="dpm_solver_pp", num_samples=8, num_steps=4),
]


def _head(sampling: SamplingSpec = SAMPLERS[0], **settings: float) -> KnnContinuousHead:
    sampling = sampling.model_copy(update=settings)
    head = build_head(TINY_KNN_CONTINUOUS, random_weights(TINY_KNN_CONTINUOUS), sampling)
    assert isinstance(head, KnnContinuousHead)
    return head


def _noise(*indices: int) -> SampleNoise:
    return SampleNoise(0, np.array(indices, dtype=np.int64))


def _context(*indices: int) -> np.ndarray:
    rows = [np.random.default_rng(index).standard_normal((4, 6)) for index in indices]
    return np.stack(rows).astype(np.float32)


@pytest.mark.parametrize("sampling", SAMPLERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_sample_is_the_same_alone_and_in_any_batch(
    sampling: SamplingSpec, guidance_scale: float
) -> None:
    head = _head(sampling, guidance_scale=guidance_scale)
    batch = head.generate(_context(0, 1, 2), _noise(0, 1, 2))
    assert batch.shape == (3, 16, 16, 3)
    assert batch.std() > 1
    assert np.array_equal(batch, head.generate(_context(0, 1, 2), _noise(0, 1, 2)))
    alone = head.generate(_context(2), _noise(2))[0].astype(int)
    assert np.abs(alone - batch[2]).max() <= 1


def test_query_neighbors_and_guidance_change_the_images() -> None:
    context = _context(0, 1)
    images = _head().generate(context, _noise(0, 1))
    changed = [
        _head().generate(_context(2, 3), _noise(0, 1)),
        _head().generate(context[:, [1, 0, 2, 3]], _noise(0, 1)),
        _head(guidance_scale=3.0).generate(context, _noise(0, 1)),
    ]
    assert not any(np.array_equal(other, images) for other in changed)
    same = _head().generate(context[:, [0, 3, 1, 2]], _noise(0, 1))
    assert np.abs(same.astype(int) - images).max() <= 1


def test_the_head_predicts_what_the_network_does() -> None:
    head = _head(guidance_scale=2.0)
    unet = head._unet
    context = torch.from_numpy(_context(0, 1))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    step = 1
    times = torch.tensor([int(head._solver.timesteps[step])] * 2)
    with torch.inference_mode():
        found = head._predictor(context)(x, step)
        conditional = unet(x, times, context)
        nothing = unet(x, times, torch.zeros_like(context))
    # Guidance extrapolates: 2 conditional - unconditional; sums in another order.
    torch.testing.assert_close(found, 2 * conditional - nothing, rtol=1e-5, atol=2e-5)
    assert float((conditional - nothing).abs().max()) > 1e-2


def test_the_query_enters_with_the_time_as_well() -> None:
    unet = _head()._unet
    x, times = torch.zeros(1, 3, 8, 8), torch.tensor([5])
    context = torch.from_numpy(_context(0))
    with torch.inference_mode():
        before = unet(x, times, context)
        unet.query_embed = torch.nn.Linear(6, 32, bias=False)
        assert float((unet(x, times, context) - before).abs().max()) > 1e-3
