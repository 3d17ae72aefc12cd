"""What declares a kind, and what implements it elsewhere, name the same ones."""

from __future__ import annotations

import pytest

from rdm_batch.heads.build import HEADS, PLAIN_HEADS
from rdm_batch.models.networks import NETWORKS
from rdm_batch.sampling.samplers import CODE_SAMPLERS, SOLVERS, TOKEN_SAMPLERS
from rdm_batch.specs.families import ARCHITECTURES, FAMILIES, WeightedModel
from rdm_batch.specs.presets import PRESETS
from rdm_batch.specs.sampling import SAMPLERS, samplers_of
from rdm_batch.specs.training import TRAININGS
from rdm_batch.training.train import TRAINERS


def test_every_family_of_heads_has_all_that_implements_it() -> None:
    weighted = [name for name, model in FAMILIES.items() if issubclass(model, WeightedModel)]
    assert weighted == list(ARCHITECTURES) == list(NETWORKS) == list(HEADS)
    assert set(PLAIN_HEADS) == set(FAMILIES) - set(weighted)


def test_every_family_of_heads_with_weights_can_be_trained() -> None:
    assert set(ARCHITECTURES) <= set(TRAININGS)


def test_every_preset_is_of_a_known_family() -> None:
    assert {preset.kind for preset in PRESETS.values()} <= set(ARCHITECTURES)


def test_every_sampler_has_what_builds_it() -> None:
    assert samplers_of("diffusion") == tuple(SOLVERS)
    assert samplers_of("autoregressive") == tuple(TOKEN_SAMPLERS)
    assert samplers_of("mask_replace") == tuple(CODE_SAMPLERS)
    assert samplers_of("none") == ("none",)
    assert set(SAMPLERS) == {*SOLVERS, *TOKEN_SAMPLERS, *CODE_SAMPLERS, "none"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_heads_accepts_a_sampler(family: str) -> None:
    assert samplers_of(FAMILIES[family].process)


def test_everything_that_can_be_trained_has_what_trains_it() -> None:
    assert list(TRAININGS) == list(TRAINERS)
    assert all(training.summary for training in TRAININGS.values())


def test_samplers_say_what_is_recorded_of_them() -> None:
    ddim = SAMPLERS["ddim"](sampler="ddim", num_samples=1, num_steps=7, eta=0.5)
    assert ddim.columns == (7, 0.5)
    plms = SAMPLERS["plms"](sampler="plms", num_samples=1, num_steps=7)
    assert plms.columns == (7, None)
    tokens = SAMPLERS["autoregressive"](sampler="autoregressive", num_samples=1)
    assert tokens.columns == (None, None)
