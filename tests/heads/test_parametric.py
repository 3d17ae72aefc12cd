"""Baselines without neighbors make the same images whatever context they are given."""

from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.heads.build import build_head
from rdm_batch.heads.head import Head
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.sampling import AutoregressiveSampling, DdimSampling
from tests.tiny_heads import TINY_RARM, TINY_RDM, random_weights


def _images(architecture: Architecture, seed: int) -> np.ndarray:
    sampling = (
        DdimSampling(sampler="ddim", num_samples=4, num_steps=3)
        if architecture.kind == "rdm"
        else AutoregressiveSampling(sampler="autoregressive", num_samples=4)
    )
    head: Head = build_head(architecture, random_weights(architecture), sampling)
    context = np.random.default_rng(seed).standard_normal((4, 3, 6)).astype(np.float32)
    return head.generate(context, SampleNoise(0, np.arange(4)))


@pytest.mark.parametrize("architecture", [TINY_RDM, TINY_RARM], ids=["rdm", "rarm"])
def test_only_a_parametric_head_ignores_its_context(architecture: Architecture) -> None:
    baseline = architecture.model_copy(update={"parametric": True})
    assert np.array_equal(_images(baseline, 0), _images(baseline, 1))
    assert not np.array_equal(_images(architecture, 0), _images(architecture, 1))
