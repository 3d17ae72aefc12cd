"""Codes drawn together: their distribution, guidance, truncation, and each sample alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from rdm_batch.errors import SpecError
from rdm_batch.sampling.autoregressive import draw
from rdm_batch.sampling.code_sampler import CodeSampler, guide_codes, truncated
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule
from rdm_batch.sampling.noise import SampleNoise, step_stream

K = 5
SCHEDULE = MaskReplaceSchedule.linear(K, 100)
CLEAN = torch.tensor([0.4, 0.05, 0.25, 0.1, 0.2], dtype=torch.float64)


def _independent(_states: torch.Tensor, _: int, asked: torch.Tensor) -> torch.Tensor:
    """Predict the same codes for every token: exact where tokens are independent."""
    return CLEAN.log().expand(int(asked.sum()), K)


def _uniform(num_samples: int, num_tokens: int, first: int = 0):  # type: ignore[no-untyped-def]
    noise = SampleNoise(7, np.arange(first, first + num_samples))
    return lambda step: torch.from_numpy(noise.uniform(step_stream(step), (num_tokens, 2)))


@pytest.mark.parametrize("num_steps", [1, 3, 10, 100])
@pytest.mark.parametrize("purity", [None, 0.0])
def test_codes_have_the_predicted_distribution(num_steps: int, purity: float | None) -> None:
    sampler = CodeSampler(SCHEDULE, num_steps, purity=purity)
    codes = sampler.sample(_independent, 32, 64, _uniform(32, 64))
    assert int(codes.max()) < K
    found = np.bincount(codes.flatten().numpy(), minlength=K)
    assert stats.chisquare(found, CLEAN.numpy() * codes.numel()).pvalue > 1e-4


@pytest.mark.parametrize("purity", [None, 2.0])
def test_a_sample_is_the_same_in_any_batch(purity: float | None) -> None:
    def predict(states: torch.Tensor, time: int, asked: torch.Tensor) -> torch.Tensor:
        near = torch.nn.functional.one_hot(states.roll(1, 1) % K, K)
        return (near * (2.0 + time / 100)).double().log_softmax(-1)[asked]

    sampler = CodeSampler(SCHEDULE, 10, 0.9, purity)
    whole = sampler.sample(predict, 6, 16, _uniform(6, 16))
    alone = sampler.sample(predict, 1, 16, _uniform(1, 16, first=4))
    assert torch.equal(alone[0], whole[4])


def test_purity_sets_the_surest_tokens_first_and_lets_them_stay() -> None:
    seen: list[torch.Tensor] = []

    def predict(states: torch.Tensor, _: int, asked: torch.Tensor) -> torch.Tensor:
        seen.append(states.clone())
        logits = torch.zeros(*states.shape, K, dtype=torch.float64)
        logits[:, :4, 1] = 20.0  # the first four of sixteen tokens are sure
        return logits.log_softmax(-1)[asked]

    sampler = CodeSampler(SCHEDULE, 4, purity=1.0)
    codes = sampler.sample(predict, 200, 16, _uniform(200, 16))
    masks = [(states == K).sum(1) for states in seen]
    assert [set(count.tolist()) for count in masks] == [{16}, {12}, {8}, {4}]
    first_set = (seen[1] != K).double().mean(0)
    assert float(first_set[:4].mean()) > 2 * float(first_set[4:].mean())
    assert (codes[:, :4] == 1).all()
    for states in seen:
        assert ((states == K) | (states == codes)).all()


def test_truncation_keeps_the_likely_codes() -> None:
    assert truncated(CLEAN, 0.5).tolist() == pytest.approx([0.4 / 0.65, 0, 0.25 / 0.65, 0, 0])
    assert truncated(CLEAN, 0.4).tolist() == [1, 0, 0, 0, 0]
    assert truncated(CLEAN, 1.0) is CLEAN
    codes = CodeSampler(SCHEDULE, 10, 0.5).sample(_independent, 8, 64, _uniform(8, 64))
    # Replacement keeps a little of every code until the last step, which draws from p(x_0).
    assert set(codes.unique().tolist()) == {0, 2}


@pytest.mark.parametrize("truncation", [1.0, 0.7])
@pytest.mark.parametrize("num_steps", [100, 7])
def test_codes_are_those_drawn_from_the_whole_posterior(num_steps: int, truncation: float) -> None:
    """Leaving tokens out changes no draw, sure or unsure, of a network that changes its mind."""
    # Many replacements, so that codes move after they were set.
    schedule = MaskReplaceSchedule(
        K, np.linspace(1.0, 0.001, 101), np.concatenate([[0.0], np.linspace(0.0001, 0.6, 100)])
    )
    asked_for, moved = 0, 0

    def log_clean(states: torch.Tensor, time: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(time)
        near = torch.nn.functional.one_hot((states + states.roll(1, 1)) % K, K)
        sharp = 6 * torch.rand(states.shape[1], 1, generator=generator)
        return (near * sharp).double().log_softmax(-1)

    def predict(states: torch.Tensor, time: int, asked: torch.Tensor) -> torch.Tensor:
        nonlocal asked_for
        asked_for += int(asked.sum())
        return log_clean(states, time)[asked]

    uniform = _uniform(16, 16)
    found = CodeSampler(schedule, num_steps, truncation).sample(predict, 16, 16, uniform)
    states = torch.full((16, 16), K)
    times = schedule.steps(num_steps).tolist()
    for step, (later, earlier) in enumerate(pairwise(times)):
        clean = truncated(log_clean(states, later).exp(), truncation)
        chances = schedule.posterior(clean, states, later, earlier)
        drawn = draw(chances.flatten(0, 1), uniform(step)[..., 0].flatten()).reshape(16, 16)
        moved += int(((drawn != states) & (states != K)).sum())
        states = drawn
    assert torch.equal(found, states)
    assert moved > 20
    assert asked_for < 16 * 16 * num_steps


def test_guidance_extrapolates_log_probabilities() -> None:
    logits = torch.tensor([[[2.0, 0.0, 1.0]], [[0.5, 0.5, 0.0]]], dtype=torch.float64)
    conditional, unconditional = logits.log_softmax(-1)
    expected = (unconditional + 3.0 * (conditional - unconditional)).log_softmax(-1)
    torch.testing.assert_close(guide_codes(logits, 3.0)[0], expected)
    torch.testing.assert_close(guide_codes(logits, 1.0)[0], conditional)


@pytest.mark.parametrize(
    "settings", [{"truncation": 0.0}, {"truncation": 1.1}, {"purity": -1.0}, {"num_steps": 101}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="sampling"):
        CodeSampler(SCHEDULE, **{"num_steps": 10, **settings})  # type: ignore[arg-type]
