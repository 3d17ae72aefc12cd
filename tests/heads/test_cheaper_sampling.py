"""Guidance in an interval, deep features used again, and guidance away from a weaker head."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from rdm_batch.errors import CheckpointError
from rdm_batch.heads.autoguidance import check_same_latents
from rdm_batch.heads.build import build_head, build_head_around
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.networks import load_networks
from rdm_batch.models.unet import UNet
from rdm_batch.sampling.noise import START, SampleNoise
from rdm_batch.specs.families import RdmArchitecture
from rdm_batch.specs.sampling import (
    SAMPLERS,
    AutoguidanceSpec,
    DdimSampling,
    DiffusionSampling,
    samplers_of,
)
from tests.tiny_heads import TINY_KNN_CONTINUOUS, TINY_RDM, random_weights

ARCHITECTURES = [TINY_RDM, TINY_KNN_CONTINUOUS]
SOLVERS = samplers_of("diffusion")
STEPS = 6
NOISE = SampleNoise(0, np.arange(3))
CONTEXT = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)


def _sampling(sampler: str = "ddim", **settings: Any) -> DiffusionSampling:
    made: DiffusionSampling = SAMPLERS[sampler](
        sampler=sampler, num_samples=3, num_steps=STEPS, **settings
    )
    return made


def _head(
    architecture: RdmArchitecture,
    sampling: DiffusionSampling,
    weaker: dict[str, torch.Tensor] | None = None,
) -> RdmHead:
    networks = load_networks(architecture, random_weights(architecture))
    others = None if weaker is None else load_networks(architecture, weaker)
    head = build_head_around(networks, sampling, weaker=others)
    assert isinstance(head, RdmHead)
    return head


def _images(architecture: RdmArchitecture, sampling: DiffusionSampling) -> np.ndarray:
    return _head(architecture, sampling).generate(CONTEXT, NOISE)


def _latents(architecture: RdmArchitecture, sampling: DiffusionSampling) -> torch.Tensor:
    """Draw without decoding: a codebook would hide small differences."""
    start = torch.from_numpy(NOISE.normal(START, architecture.latent_shape))
    head = _head(architecture, sampling)
    return head.sample_latents(torch.from_numpy(CONTEXT), start, lambda step: start)


def _weaker(architecture: RdmArchitecture, factor: float = 0.8) -> dict[str, torch.Tensor]:
    """Give other weights of the same autoencoder."""
    return {
        name: value if name.startswith("first_stage_model.") else factor * value
        for name, value in random_weights(architecture).items()
    }


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the rows that leave the network and its deep part."""
    counts: Counter[str] = Counter()
    finish, deep = UNet._finish, UNet.predict_leaving_deep

    def counted(self: UNet, *args: Any) -> torch.Tensor:
        out = finish(self, *args)
        counts["shallow"] += len(out)
        return out

    def counted_deep(self: UNet, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        out = deep(self, *args)
        counts["deep"] += len(out[0])
        return out

    monkeypatch.setattr(UNet, "_finish", counted)
    monkeypatch.setattr(UNet, "predict_leaving_deep", counted_deep)
    return counts


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.kind)
@pytest.mark.parametrize("sampler", SOLVERS)
def test_an_interval_of_all_steps_and_of_none_give_the_bytes_of_both(
    architecture: RdmArchitecture, sampler: str
) -> None:
    plain = _latents(architecture, _sampling(sampler))
    guided = _latents(architecture, _sampling(sampler, guidance_scale=2.0))

    def inside(low: float, high: float) -> torch.Tensor:
        sampling = _sampling(sampler, guidance_scale=2.0, guidance_interval=(low, high))
        return _latents(architecture, sampling)

    assert torch.equal(inside(0.0, 1e6), guided)
    assert torch.equal(inside(1e5, 1e6), plain)
    some = inside(0.5, 5.0)
    assert not torch.equal(some, guided)
    assert not torch.equal(some, plain)


def test_steps_outside_of_the_interval_evaluate_one_branch(rows: Counter[str]) -> None:
    head = _head(TINY_RDM, _sampling(guidance_scale=2.0, guidance_interval=(0.5, 5.0)))
    inside = sum(head._evaluations.guided)
    assert 0 < inside < STEPS
    head.generate(CONTEXT, NOISE)
    assert rows["deep"] == 3 * (STEPS + inside)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.kind)
@pytest.mark.parametrize("sampler", SOLVERS)
def test_deep_features_of_the_same_step_give_what_all_of_the_network_gives(
    architecture: RdmArchitecture, sampler: str
) -> None:
    one = _sampling(sampler, guidance_scale=2.0)
    assert torch.equal(
        _latents(architecture, one),
        _latents(architecture, one.model_copy(update={"reuse_deep_features": 1})),
    )
    head = _head(architecture, _sampling(sampler, guidance_scale=2.0, reuse_deep_features=2))
    context, x = torch.from_numpy(CONTEXT), torch.randn(3, *architecture.latent_shape)
    with torch.inference_mode():
        steps = head._steps
        query = steps._query(context)
        features = steps.unet.context_features(context, guided=True)
        given, biases = steps._arguments(x, 1, True, query)
        whole, deep = steps.unet.predict_leaving_deep(given, biases, features)
        again = steps.unet.predict_shallow(given, biases, features, deep)
        other = steps.unet.predict_shallow(given + 1, biases, features, deep)
    assert torch.equal(whole, again)
    assert not torch.equal(whole, other)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_deep_features_are_computed_every_nth_step(sampler: str, rows: Counter[str]) -> None:
    _images(TINY_RDM, _sampling(sampler, guidance_scale=2.0, reuse_deep_features=3))
    evaluations = STEPS + (sampler == "plms")
    assert rows == {"deep": 2 * 3 * 2, "shallow": 2 * 3 * evaluations}


def test_deep_features_used_again_move_images_a_little() -> None:
    exact = _images(TINY_RDM, _sampling()).astype(int)
    reused = _images(TINY_RDM, _sampling(reuse_deep_features=2)).astype(int)
    assert 0 < np.abs(exact - reused).mean() < 0.5 * exact.std()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.kind)
def test_a_sample_is_the_same_alone_with_all_of_them(architecture: RdmArchitecture) -> None:
    sampling = _sampling(
        "plms",
        guidance_interval=(0.3, 9.0),
        reuse_deep_features=2,
        autoguidance=AutoguidanceSpec(checkpoint="weaker", scale=1.5),
    )
    head = _head(architecture, sampling, _weaker(architecture))
    batch = head.generate(CONTEXT, NOISE)
    assert np.array_equal(batch, head.generate(CONTEXT, NOISE))
    alone = head.generate(CONTEXT[2:], SampleNoise(0, np.array([2])))
    assert np.abs(alone[0].astype(int) - batch[2]).max() <= 1


def test_autoguidance_extrapolates_from_the_weaker_prediction() -> None:
    spec = AutoguidanceSpec(checkpoint="weaker", scale=3.0)
    head = _head(TINY_RDM, _sampling(autoguidance=spec), _weaker(TINY_RDM))
    own = _head(TINY_RDM, _sampling())
    weaker = build_head(TINY_RDM, _weaker(TINY_RDM), _sampling())
    assert isinstance(weaker, RdmHead)
    context, x = torch.from_numpy(CONTEXT), torch.randn(3, *TINY_RDM.latent_shape)
    with torch.inference_mode():
        found, better, worse = (
            one._predictor(context)(x, 2).clone() for one in (head, own, weaker)
        )
    torch.testing.assert_close(found, worse + 3 * (better - worse), rtol=1e-5, atol=1e-5)
    assert float((better - worse).abs().max()) > 1e-2


def test_autoguidance_by_the_head_itself_changes_nothing_but_last_digits() -> None:
    spec = AutoguidanceSpec(checkpoint="itself", scale=2.0)
    guided = _head(TINY_RDM, _sampling(autoguidance=spec), random_weights(TINY_RDM))
    images = guided.generate(CONTEXT, NOISE).astype(int)
    assert np.abs(images - _images(TINY_RDM, _sampling())).mean() < 0.01


def test_a_weaker_head_without_neighbors_sees_none() -> None:
    spec = AutoguidanceSpec(checkpoint="weaker", scale=3.0)
    parametric = TINY_RDM.model_copy(update={"parametric": True})
    networks = load_networks(TINY_RDM, random_weights(TINY_RDM))
    weaker = load_networks(parametric, random_weights(TINY_RDM))
    head = build_head_around(networks, _sampling(autoguidance=spec), weaker=weaker)
    # The head's own weights without neighbors are its unconditional branch.
    expected = _images(TINY_RDM, _sampling(guidance_scale=3.0)).astype(int)
    assert np.abs(head.generate(CONTEXT, NOISE) - expected).mean() < 0.05


def test_a_head_of_other_latents_is_refused_when_it_is_loaded() -> None:
    weights = random_weights(TINY_RDM)
    networks = load_networks(TINY_RDM, weights)
    check_same_latents(networks, load_networks(TINY_RDM, _weaker(TINY_RDM)))
    rounded = {name: value.half() for name, value in weights.items()}
    check_same_latents(networks, load_networks(TINY_RDM, rounded))
    name = "first_stage_model.decoder.conv_out.weight"
    other = load_networks(TINY_RDM, weights | {name: weights[name].flip(0)})
    with pytest.raises(CheckpointError, match=r"autoguidance.checkpoint.*its decoder|another auto"):
        check_same_latents(networks, other)


def test_steps_that_are_warmed_up_are_all_kinds_of_steps(rows: Counter[str]) -> None:
    head = _head(
        TINY_RDM,
        DdimSampling(
            sampler="ddim",
            num_samples=3,
            num_steps=8,
            guidance_scale=2.0,
            guidance_interval=(0.5, 5.0),
            reuse_deep_features=2,
        ),
    )
    head._repeat_once(torch.from_numpy(CONTEXT))
    # Whole and shallow, with one branch and with two.
    assert rows == {"deep": 3 + 6, "shallow": 2 * (3 + 6)}
