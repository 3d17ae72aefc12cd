from __future__ import annotations

import numpy as np
import pytest
import torch

from rdm_batch.errors import CheckpointError, DatabaseError, SpecError
from rdm_batch.heads.build import build_head
from rdm_batch.heads.head import Head
from rdm_batch.heads.knn_discrete import KnnDiscreteHead
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.sampling import AutoregressiveSampling, MaskReplaceSampling
from tests.tiny_heads import TINY_KNN_DISCRETE, random_weights


def _head(weights: dict[str, torch.Tensor] | None = None, **settings: float) -> KnnDiscreteHead:
    sampling = MaskReplaceSampling(
        **{"sampler": "mask_replace", "num_samples": 8, "num_steps": 5, **settings}
    )
    head = build_head(TINY_KNN_DISCRETE, weights or random_weights(TINY_KNN_DISCRETE), sampling)
    assert isinstance(head, KnnDiscreteHead)
    return head


def _noise(*indices: int) -> SampleNoise:
    return SampleNoise(0, np.array(indices, dtype=np.int64))


def _context(*indices: int) -> np.ndarray:
    rows = [np.random.default_rng(index).standard_normal((4, 6)) for index in indices]
    return np.stack(rows).astype(np.float32)


def test_images_have_the_size_of_the_architecture() -> None:
    head = _head()
    images = head.generate(_context(0, 1), _noise(0, 1))
    assert isinstance(head, Head)
    assert (head.image_size, head.context_dim) == (8, 6)
    assert images.shape == (2, 8, 8, 3)
    assert images.dtype == np.uint8
    assert images.std() > 1


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize("purity", [None, 1.0])
def test_a_sample_is_the_same_alone_and_in_any_batch(
    guidance_scale: float, purity: float | None
) -> None:
    head = _head(guidance_scale=guidance_scale, purity=purity)
    batch = head.generate(_context(0, 1, 2), _noise(0, 1, 2))
    assert np.array_equal(batch, head.generate(_context(0, 1, 2), _noise(0, 1, 2)))
    alone = head.generate(_context(2), _noise(2))[0].astype(int)
    assert np.abs(alone - batch[2]).max() <= 1


def test_query_neighbors_seed_and_settings_change_the_images() -> None:
    samples, others = range(8), range(8, 16)
    context = _context(*samples)
    swapped = context[:, [1, 0, 2, 3]]
    images = _head().generate(context, _noise(*samples))
    changed = [
        _head().generate(_context(*others), _noise(*samples)),
        _head().generate(swapped, _noise(*samples)),
        _head().generate(context, _noise(*others)),
        _head(guidance_scale=3.0).generate(context, _noise(*samples)),
        _head(num_steps=20).generate(context, _noise(*samples)),
        _head(truncation=0.1).generate(context, _noise(*samples)),
        _head(purity=1.0).generate(context, _noise(*samples)),
    ]
    assert not any(np.array_equal(other, images) for other in changed)


def test_the_order_of_neighbors_does_not_count_and_that_of_the_query_does() -> None:
    network = _head()._transformer
    states = torch.full((1, 16), 16)
    context = torch.from_numpy(_context(3))

    def logits(order: list[int]) -> torch.Tensor:
        projected = network.keys_values(context[:, order])
        return network(states, torch.tensor([9]), projected)

    with torch.inference_mode():
        first = logits([0, 1, 2, 3])
        torch.testing.assert_close(logits([0, 3, 1, 2]), first, rtol=0, atol=1e-5)
        assert float((logits([1, 0, 2, 3]) - first).abs().max()) > 1e-3


def test_guidance_leads_away_from_a_context_of_zeros() -> None:
    head = _head(guidance_scale=2.0)
    network = head._transformer
    states, times = torch.arange(16)[None] % 17, torch.tensor([9])
    context = torch.from_numpy(_context(3))
    with torch.inference_mode():
        conditional, unconditional = network(states, times, network.keys_values(context), True)
        alone = network(states, times, network.keys_values(context))[0]
        nothing = network(states, times, network.keys_values(torch.zeros(1, 4, 6)))[0]
    # Rows of one batch and alone: sums in another order.
    torch.testing.assert_close(conditional, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(unconditional, nothing, rtol=0, atol=1e-5)


def test_a_context_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DatabaseError, match="needed width 6"):
        _head().generate(np.zeros((1, 2, 7), np.float32), _noise(0))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_logits_that_are_not_finite_name_sample_and_time(value: float) -> None:
    weights = random_weights(TINY_KNN_DISCRETE)
    weights["transformer.out.bias"][3] = value
    with pytest.raises(CheckpointError, match=r"sample 5: its logits are not finite at time 20"):
        _head(weights).generate(_context(5), _noise(5))


def test_more_steps_than_the_process_has_times_are_refused() -> None:
    with pytest.raises(SpecError, match="1 to 20 steps"):
        _head(num_steps=21)


def test_another_sampler_is_refused() -> None:
    sampling = AutoregressiveSampling(sampler="autoregressive", num_samples=8)
    with pytest.raises(SpecError, match="does not drive a head over codes; needed mask_replace"):
        build_head(TINY_KNN_DISCRETE, random_weights(TINY_KNN_DISCRETE), sampling)
