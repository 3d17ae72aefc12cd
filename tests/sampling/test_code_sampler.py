"""Codes drawn together: their distribution, guidance, truncation, and each sample alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from rdm_batch.errors import SpecError
from rdm_batch.sampling import code_sampler
from rdm_batch.sampling.autoregressive import draw
from rdm_batch.sampling.code_sampler import CodeSampler, chosen, guide_codes, truncated
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule
from rdm_batch.sampling.noise import SampleNoise, step_stream

K = 5
SCHEDULE = MaskReplaceSchedule.linear(K, 100)
CLEAN = torch.tensor([0.4, 0.05, 0.25, 0.1, 0.2], dtype=torch.float64)


def _independent(states: torch.Tensor, _: int, asked: torch.Tensor | None) -> torch.Tensor:
    """Predict the same codes for every token: exact where tokens are independent."""
    tokens = states.numel() if asked is None else int(asked.sum())
    return CLEAN.log().expand(tokens, K)


def _uniform(num_samples: int, num_tokens: int, first: int = 0):  # type: ignore[no-untyped-def]
    noise = SampleNoise(7, np.arange(first, first + num_samples))
    return lambda step: torch.from_numpy(noise.uniform(step_stream(step), (num_tokens, 2)))


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def of_a_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw as on a CPU, which leaves tokens out, and as on a GPU, which must not wait."""
    monkeypatch.setattr(code_sampler, "_may_choose", lambda _device: request.param == "cpu")


@pytest.mark.parametrize("purity", [0.0, 2.0])
def test_tokens_that_are_left_out_change_nothing_where_the_surest_are_set(
    purity: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(states: torch.Tensor, time: int, asked: torch.Tensor | None) -> torch.Tensor:
        near = torch.nn.functional.one_hot((states + states.roll(1, 1)) % K, K)
        return chosen((near * (2.0 + time / 100)).double().log_softmax(-1), asked)

    found = []
    for choose in (True, False):
        monkeypatch.setattr(code_sampler, "_may_choose", lambda _device, choose=choose: choose)
        found.append(CodeSampler(SCHEDULE, 7, 0.9, purity).sample(predict, 8, 16, _uniform(8, 16)))
    assert torch.equal(*found)


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
    def predict(states: torch.Tensor, time: int, asked: torch.Tensor | None) -> torch.Tensor:
        near = torch.nn.functional.one_hot(states.roll(1, 1) % K, K)
        return chosen((near * (2.0 + time / 100)).double().log_softmax(-1), asked)

    sampler = CodeSampler(SCHEDULE, 10, 0.9, purity)
    whole = sampler.sample(predict, 6, 16, _uniform(6, 16))
    alone = sampler.sample(predict, 1, 16, _uniform(1, 16, first=4))
    assert torch.equal(alone[0], whole[4])


def test_purity_sets_the_surest_tokens_first_and_lets_them_stay() -> None:
    seen: list[torch.Tensor] = []

    def predict(states: torch.Tensor, _: int, asked: torch.Tensor | None) -> torch.Tensor:
        seen.append(states.clone())
        logits = torch.zeros(*states.shape, K, dtype=torch.float64)
        logits[:, :4, 1] = 20.0  # the first four of sixteen tokens are sure
        return chosen(logits.log_softmax(-1), asked)

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

    def predict(states: torch.Tensor, time: int, asked: torch.Tensor | None) -> torch.Tensor:
        nonlocal asked_for
        asked_for += states.numel() if asked is None else int(asked.sum())
        return chosen(log_clean(states, time), asked)

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
    if code_sampler._may_choose(torch.device("cpu")):
        assert asked_for < 16 * 16 * num_steps


def test_guidance_extrapolates_log_probabilities() -> None:
    logits = torch.tensor([[[2.0, 0.0, 1.0]], [[0.5, 0.5, 0.0]]], dtype=torch.float64)
    conditional, unconditional = logits.log_softmax(-1)
    expected = (unconditional + 3.0 * (conditional - unconditional)).log_softmax(-1)
    torch.testing.assert_close(guide_codes(logits, 3.0)[0], expected)
    torch.testing.assert_close(guide_codes(logits, 1.0)[0], conditional)


def test_guidance_among_plausible_codes_lifts_no_other() -> None:
    # The last code is likely in neither branch, but a hundred thousand times likelier in one.
    conditional = torch.tensor([[0.6, 0.3, 0.0989, 0.001, 1e-4]], dtype=torch.float64)
    unconditional = torch.tensor([[0.3, 0.3, 0.3, 0.1, 1e-9]], dtype=torch.float64)
    logits = torch.cat([conditional, unconditional]).log()
    assert guide_codes(logits, 4.0).exp()[0, 4] > 0.99
    found = guide_codes(logits, 4.0, 0.2).exp()[0]
    kept = torch.tensor([0.6**4 / 0.3**3, 0.3, 0.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found, kept / kept.sum())
    assert torch.equal(guide_codes(logits, 4.0, 0.0), guide_codes(logits, 4.0))
    assert guide_codes(logits, 4.0, 1 - 1e-9)[0].exp().tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("purity", [None, 0.0, 2.0])
def test_codes_without_any_chance_are_never_drawn(purity: float | None) -> None:
    log_clean = torch.tensor([0.5, 0.0, 0.5, 0.0, 0.0], dtype=torch.float64).log()

    def predict(states: torch.Tensor, _: int, asked: torch.Tensor | None) -> torch.Tensor:
        return log_clean.expand(states.numel() if asked is None else int(asked.sum()), K)

    codes = CodeSampler(SCHEDULE, 10, purity=purity).sample(predict, 16, 16, _uniform(16, 16))
    assert set(codes.unique().tolist()) == {0, 2}


@pytest.mark.parametrize(
    "settings",
    [
        {"truncation": 0.0},
        {"truncation": 1.1},
        {"purity": -1.0},
        {"plausibility": 1.0},
        {"num_steps": 101},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="sampling"):
        CodeSampler(SCHEDULE, **{"num_steps": 10, **settings})  # type: ignore[arg-type]
