from __future__ import annotations

import pytest
import torch

from rdm_batch.errors import SpecError
from rdm_batch.sampling.autoregressive import TokenSampler, draw, sample_tokens

LOGITS = torch.log(torch.tensor([[0.4, 0.1, 0.3, 0.2]]))


def _probabilities(sampler: TokenSampler, logits: torch.Tensor = LOGITS) -> list[float]:
    return sampler.probabilities(logits)[0].tolist()


def test_without_settings_probabilities_are_the_models() -> None:
    assert _probabilities(TokenSampler()) == pytest.approx([0.4, 0.1, 0.3, 0.2])


def test_temperature_sharpens() -> None:
    squares = [0.16, 0.01, 0.09, 0.04]
    expected = [value / sum(squares) for value in squares]
    assert _probabilities(TokenSampler(temperature=0.5)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (1, [1, 0, 0, 0]),
        (2, [4 / 7, 0, 3 / 7, 0]),
        (4, [0.4, 0.1, 0.3, 0.2]),
        (9, [0.4, 0.1, 0.3, 0.2]),
    ],
)
def test_top_k_keeps_the_largest(top_k: int, expected: list[float]) -> None:
    assert _probabilities(TokenSampler(top_k=top_k)) == pytest.approx(expected)


def test_top_k_keeps_ties_at_the_threshold() -> None:
    logits = torch.log(torch.tensor([[0.25, 0.25, 0.25, 0.25]]))
    assert _probabilities(TokenSampler(top_k=2), logits) == pytest.approx([0.25] * 4)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.1, [1, 0, 0, 0]),
        (0.4, [1, 0, 0, 0]),
        (0.41, [4 / 7, 0, 3 / 7, 0]),
        (0.8, [4 / 9, 0, 3 / 9, 2 / 9]),
        (1.0, [0.4, 0.1, 0.3, 0.2]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, expected: list[float]) -> None:
    assert _probabilities(TokenSampler(top_p=top_p)) == pytest.approx(expected)


def test_top_p_applies_after_top_k() -> None:
    sampler = TokenSampler(top_k=3, top_p=0.45)  # of 4/9, 3/9, 2/9
    assert _probabilities(sampler) == pytest.approx([4 / 7, 0, 3 / 7, 0])


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2]).expand(20_000, 4)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = torch.bincount(draw(probabilities, uniform), minlength=4) / 20_000
    # Five standard errors of a share of one half are 1.8 %.
    assert shares.tolist() == pytest.approx([0.5, 0.0, 0.3, 0.2], abs=0.018)
    assert shares[1] == 0


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_draws_at_the_borders_are_possible_codes(uniform: float, token: int) -> None:
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    assert draw(probabilities, torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]


def test_probabilities_that_miss_a_sum_of_one_by_rounding_draw_possible_codes() -> None:
    probabilities = torch.full((1, 3), 0.3333)
    assert draw(probabilities, torch.tensor([0.99999], dtype=torch.float64)).tolist() == [2]


def test_every_token_depends_on_the_one_before_and_its_own_draw() -> None:
    positions = []

    def next_logits(tokens: torch.Tensor, position: int) -> torch.Tensor:
        positions.append(position)
        return torch.nn.functional.one_hot((tokens + 2) % 5, 5).float() * 100

    drawn = sample_tokens(
        next_logits, torch.tensor([0, 1]), 4, TokenSampler(), lambda p, position: p.argmax(1)
    )
    assert positions == [0, 1, 2, 3]
    assert drawn.tokens.tolist() == [[2, 4, 1, 3], [3, 0, 2, 4]]
    assert drawn.failed_at.tolist() == [-1, -1]


def test_position_of_the_first_logits_that_are_not_finite_is_kept() -> None:
    def next_logits(tokens: torch.Tensor, position: int) -> torch.Tensor:
        logits = torch.zeros(2, 3)
        if position in (1, 2):
            logits[1, 0] = torch.nan
        return logits

    drawn = sample_tokens(
        next_logits, torch.tensor([0, 0]), 4, TokenSampler(), lambda p, position: p.argmax(1)
    )
    assert drawn.failed_at.tolist() == [-1, 1]


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=f"sampling.{next(iter(settings))}: "):
        TokenSampler(**settings)
