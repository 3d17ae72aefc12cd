"""The discrete process against explicit transition matrices and its own marginals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import VQDiffusionScheduler
from scipy import stats

from rdm_batch.errors import SpecError
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule

K, T = 7, 100
SCHEDULE = MaskReplaceSchedule.linear(K, T)


def _step_matrix(t: int) -> np.ndarray:
    """Q_t[to, from] of Gu et al. 2022, equation 7, from the per-step parameters."""
    kept = np.concatenate([[1.0], np.linspace(0.99999, 0.000009, T)])
    masked = np.concatenate([[0.0], np.linspace(0.000009, 0.99999, T)])
    alpha = kept[t] / kept[t - 1]
    gamma = 1 - (1 - masked[t]) / (1 - masked[t - 1])
    beta = (1 - alpha - gamma) / K
    matrix = np.zeros((K + 1, K + 1))
    matrix[:K, :K] = beta + alpha * np.eye(K)
    matrix[K, :K] = gamma
    matrix[K, K] = 1.0
    return matrix


def _product(earlier: int, later: int) -> np.ndarray:
    matrix = np.eye(K + 1)
    for t in range(earlier + 1, later + 1):
        matrix = _step_matrix(t) @ matrix
    return matrix


@pytest.mark.parametrize(
    ("later", "earlier"),
    [(1, 0), (2, 1), (50, 49), (100, 99), (100, 0), (60, 20), (37, 0), (99, 3)],
)
def test_the_posterior_is_that_of_explicit_matrices(later: int, earlier: int) -> None:
    rng = np.random.default_rng(later * 101 + earlier)
    clean = rng.dirichlet(np.ones(K))
    first, then, whole = _product(0, earlier), _product(earlier, later), _product(0, later)
    for state in range(K + 1):
        expected = np.zeros(K + 1)
        for x0 in range(K):
            expected += clean[x0] * then[state] * first[:, x0] / whole[state, x0]
        found = SCHEDULE.posterior(
            torch.from_numpy(clean)[None], torch.tensor([state]), later, earlier
        )[0]
        # Products of 100 matrices in double precision agree to 1e-10 with closed forms.
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
        assert float(found.sum()) == pytest.approx(1, abs=1e-9)


def test_a_step_to_time_0_draws_the_predicted_codes() -> None:
    clean = torch.tensor([[0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1]] * 2, dtype=torch.float64)
    found = SCHEDULE.posterior(clean, torch.tensor([K, 3]), 1, 0)
    torch.testing.assert_close(found[:, :K], clean)
    assert not found[:, K].any()


@pytest.mark.parametrize("t", [1, 10, 50, 90, 100])
def test_noised_codes_have_the_marginals_of_the_forward_process(t: int) -> None:
    count = 200_000
    codes = torch.full((1, count), 2)
    uniform = torch.from_numpy(np.random.default_rng(t).random((1, count)))
    found = np.bincount(
        SCHEDULE.noised(codes, torch.tensor([t]), uniform)[0].numpy(), minlength=K + 1
    )
    expected = _product(0, t)[:, 2] * count
    # Cells that expect fewer than five are put together, as the test requires.
    rare = expected < 5
    cells = [np.append(values[~rare], values[rare].sum()) for values in (found, expected)]
    if cells[1][-1] < 5:
        assert cells[0][-1] <= 25
        cells = [values[:-1] for values in cells]
    if len(cells[0]) > 1:
        assert stats.chisquare(cells[0], cells[1] * cells[0].sum() / cells[1].sum()).pvalue > 1e-4
    else:
        assert cells[0][0] == pytest.approx(cells[1][0], rel=1e-3)


def test_steps_end_at_0_and_take_each_time_once() -> None:
    assert SCHEDULE.steps(100).tolist() == list(range(100, -1, -1))
    assert SCHEDULE.steps(1).tolist() == [100, 0]
    for number in range(1, 101):
        times = SCHEDULE.steps(number)
        assert len(times) == number + 1
        assert times[0] == 100
        assert times[-1] == 0
        assert (np.diff(times) < 0).all()


@pytest.mark.parametrize("number", [0, 101, -1])
def test_more_steps_than_times_are_refused(number: int) -> None:
    with pytest.raises(SpecError, match="1 to 100 steps"):
        SCHEDULE.steps(number)


@pytest.mark.parametrize(("codes", "times"), [(1, 100), (16, 1)])
def test_a_process_without_room_is_refused(codes: int, times: int) -> None:
    with pytest.raises(SpecError, match="at least 2"):
        MaskReplaceSchedule.linear(codes, times)


@pytest.mark.parametrize("t", [1, 2, 50, 99, 100])
def test_the_posterior_is_that_of_diffusers(t: int) -> None:
    codes = 64
    schedule = MaskReplaceSchedule.linear(codes, T)
    theirs = VQDiffusionScheduler(num_vec_classes=codes + 1, num_train_timesteps=T)
    generator = torch.Generator().manual_seed(t)
    clean = torch.randn(2, 40, codes, generator=generator).double().softmax(-1)
    states = torch.randint(0, codes + 1, (2, 40), generator=generator)
    found = schedule.posterior(clean, states, t, t - 1)
    log_clean = clean.log().transpose(1, 2).float()
    expected = theirs.q_posterior(log_clean, states, torch.tensor(t - 1)).exp().transpose(1, 2)
    # Its tables are logarithms in float32.
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-5)


def _explicit_bound(
    clean: torch.Tensor, codes: torch.Tensor, states: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """The divergence of the two posteriors, written out over all states."""
    schedule = MaskReplaceSchedule.linear(clean.shape[-1], T)
    at = times[:, None]
    known = torch.nn.functional.one_hot(codes, clean.shape[-1]).double()
    true = schedule.posterior(known, states, at, at - 1)
    predicted = schedule.posterior(clean, states, at, at - 1)
    least = 1e-300
    return (true * (true.clamp(min=least).log() - predicted.clamp(min=least).log())).sum(-1)


@pytest.mark.parametrize("sureness", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("codes_in_all", [7, 300])
def test_the_closed_bound_is_the_divergence_of_the_posteriors(
    codes_in_all: int, sureness: float
) -> None:
    generator = torch.Generator().manual_seed(codes_in_all)
    times = torch.tensor([1, 2, 3, 50, 99, 100])
    shape = (len(times), 30)
    codes = torch.randint(0, codes_in_all, shape, generator=generator)
    # A third kept, a third masked, a third replaced (by chance also by itself), but for time 1,
    # at which another code than the clean one is next to impossible.
    states = torch.randint(0, codes_in_all, shape, generator=generator)
    states[:, :10] = codes[:, :10]
    states[:, 10:20] = codes_in_all
    states[0, 20:] = codes_in_all
    scores = torch.randn(*shape, codes_in_all, generator=generator, dtype=torch.float64)
    scores += sureness * torch.nn.functional.one_hot(codes, codes_in_all)
    schedule = MaskReplaceSchedule.linear(codes_in_all, T)

    wanted_scores = scores.clone().requires_grad_()
    wanted = _explicit_bound(wanted_scores.softmax(-1), codes, states, times)
    wanted.sum().backward()
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        found_scores = scores.detach().to(dtype).clone().requires_grad_()
        log_clean = found_scores.log_softmax(-1)
        found, surprise = schedule.bound(log_clean, codes, states, times)
        found.sum().backward()
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)
        assert wanted_scores.grad is not None
        assert found_scores.grad is not None
        torch.testing.assert_close(
            found_scores.grad.double(), wanted_scores.grad, rtol=0, atol=tolerance
        )
        expected = -log_clean.gather(-1, codes[..., None])[..., 0]
        torch.testing.assert_close(surprise, expected)
        torch.testing.assert_close(found[0], surprise[0], rtol=0, atol=tolerance)


def test_codes_that_are_out_of_the_question_leave_the_bound_finite() -> None:
    schedule = MaskReplaceSchedule.linear(K, T)
    scores = torch.zeros(T, 3, K)
    scores[..., 0] = 300.0
    scores.requires_grad_()
    codes = torch.tensor([0, 1, 1]).expand(T, 3)
    states = torch.tensor([0, K, 2]).expand(T, 3)
    bound, _ = schedule.bound(scores.log_softmax(-1), codes, states, torch.arange(1, T + 1))
    bound.sum().backward()
    assert torch.isfinite(bound).all()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
