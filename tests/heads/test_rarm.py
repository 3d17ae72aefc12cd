from __future__ import annotations

import numpy as np
import pytest
import torch

from rdm_batch.errors import CheckpointError, DatabaseError, SpecError
from rdm_batch.heads.build import build_head
from rdm_batch.heads.head import Head
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.sampling import AutoregressiveSampling, DdimSampling
from tests.tiny_heads import TINY_RARM, TINY_RDM, random_weights


def _head(**settings: float) -> RarmHead:
    sampling = AutoregressiveSampling(
        **{"sampler": "autoregressive", "num_samples": 8, "top_k": 8, **settings}
    )
    head = build_head(TINY_RARM, random_weights(TINY_RARM), sampling)
    assert isinstance(head, RarmHead)
    return head


def _noise(*indices: int) -> SampleNoise:
    return SampleNoise(0, np.array(indices, dtype=np.int64))


def _context(*indices: int) -> np.ndarray:
    rows = [np.random.default_rng(index).standard_normal((3, 6)) for index in indices]
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
def test_a_sample_is_the_same_alone_and_in_any_batch(guidance_scale: float) -> None:
    head = _head(guidance_scale=guidance_scale)
    batch = head.generate(_context(0, 1, 2), _noise(0, 1, 2))
    assert np.array_equal(
        batch, _head(guidance_scale=guidance_scale).generate(_context(0, 1, 2), _noise(0, 1, 2))
    )
    alone = head.generate(_context(2), _noise(2))[0].astype(int)
    assert np.abs(alone - batch[2]).max() <= 1


def test_neighbors_seed_and_settings_change_the_images() -> None:
    # The weights are random, so a single sample may well draw the same tokens again.
    samples, others = range(8), range(8, 16)
    images = _head().generate(_context(*samples), _noise(*samples))
    changed = [
        _head().generate(_context(*others), _noise(*samples)),
        _head().generate(_context(*samples), _noise(*others)),
        _head(guidance_scale=3.0).generate(_context(*samples), _noise(*samples)),
        _head(top_p=0.2).generate(_context(*samples), _noise(*samples)),
        _head(temperature=0.1).generate(_context(*samples), _noise(*samples)),
    ]
    assert not any(np.array_equal(other, images) for other in changed)


def test_context_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DatabaseError, match="needed width 6"):
        _head().generate(np.zeros((1, 2, 7), np.float32), _noise(0))


def test_logits_that_are_not_finite_name_sample_and_token() -> None:
    weights = random_weights(TINY_RARM)
    # One code of the second token on whose embedding is infinite: samples fail once they draw it.
    weights["transformer.proj_in.weight"][3] = torch.inf
    sampling = AutoregressiveSampling(sampler="autoregressive", num_samples=8)
    head = build_head(TINY_RARM, weights, sampling)
    with pytest.raises(CheckpointError, match=r"sample \d+: its logits are not finite at token"):
        head.generate(_context(*range(8)), _noise(*range(8)))


def test_sampler_of_the_other_kind_of_head_is_refused() -> None:
    ddim = DdimSampling(sampler="ddim", num_samples=1)
    with pytest.raises(SpecError, match="'ddim' does not drive an autoregressive head"):
        build_head(TINY_RARM, random_weights(TINY_RARM), ddim)
    tokens = AutoregressiveSampling(sampler="autoregressive", num_samples=1)
    with pytest.raises(SpecError, match="'autoregressive' does not drive a diffusion head"):
        build_head(TINY_RDM, random_weights(TINY_RDM), tokens)
