"""The loop over tokens of a compiled head, run here without a compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rdm_batch.heads import rarm, token_loop
from rdm_batch.heads.build import build_head
from rdm_batch.heads.decode import decode_in_parts
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.token_loop import TokenState, buckets
from rdm_batch.sampling.autoregressive import Drawn
from rdm_batch.specs.sampling import AutoregressiveSampling
from tests.tiny_heads import TINY_RARM, random_weights

TOKENS = TINY_RARM.transformer.num_positions


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rarm, token_loop):
        monkeypatch.setattr(module, "compiled", lambda function, device: function)
    monkeypatch.setattr(token_loop, "_BUCKET", 4)


def _head(compile: bool, weights: dict[str, Any] | None = None, **settings: float) -> RarmHead:
    sampling = AutoregressiveSampling(
        **{"sampler": "autoregressive", "num_samples": 8, "guidance_scale": 2.0, **settings}
    )
    head = build_head(TINY_RARM, weights or random_weights(TINY_RARM), sampling, compile=compile)
    assert isinstance(head, RarmHead)
    return head


def _inputs(seed: int, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(count, 3, 6, generator=generator)
    return context, torch.rand(count, TOKENS, generator=generator, dtype=torch.float64)


def _equal(first: Drawn, second: Drawn) -> bool:
    return torch.equal(first.tokens, second.tokens) and torch.equal(
        first.failed_at, second.failed_at
    )


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (16, (16,)),
        (64, (64,)),
        (100, (64, 100)),
        (256, (64, 128, 192, 256)),
        (300, (128, 256, 300)),
        (1024, (256, 512, 768, 1024)),
    ],
)
def test_a_step_is_compiled_for_at_most_four_lengths(
    positions: int, expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_loop, "_BUCKET", 64)
    assert buckets(positions) == expected


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 9}, {"top_p": 0.7}, {"temperature": 0.5, "top_k": 1}]
)
def test_the_loop_draws_the_tokens_of_the_plain_head(
    guidance_scale: float, settings: dict[str, float]
) -> None:
    plain, looped = (
        _head(compile, guidance_scale=guidance_scale, **settings) for compile in (False, True)
    )
    for seed in range(3):
        drawn = looped.draw_tokens(*_inputs(seed))
        assert _equal(drawn, plain.draw_tokens(*_inputs(seed)))
        assert drawn.tokens.shape == (8, TOKENS)


def test_keys_are_read_no_further_than_the_next_length(monkeypatch: pytest.MonkeyPatch) -> None:
    head, seen = _head(True), []
    loop = head._loop
    assert loop is not None

    def step(state: TokenState, length: int) -> None:
        seen.append((int(state.position), length))
        loop.step(state, length)

    monkeypatch.setattr(loop, "_step", step)
    head.draw_tokens(*_inputs(0))
    assert seen == [(position, 4 * (position // 4 + 1)) for position in range(TOKENS)]
    seen.clear()
    head._repeat_once(_inputs(0)[0])
    assert seen == [(0, 4), (0, 8), (0, 12), (0, 16)]


def test_memory_stays_where_it_is_and_what_was_drawn_is_kept() -> None:
    head = _head(True)
    loop = head._loop
    assert loop is not None

    def places() -> list[int]:
        tensors = [
            tensor
            for state in loop._states.values()
            for block in (*state.generation.neighbors, *state.generation.past)
            for tensor in (*block, state.tokens, state.uniform, state.failed_at, state.position)
        ]
        return [tensor.data_ptr() for tensor in tensors]

    first = head.draw_tokens(*_inputs(0))
    tokens, at = first.tokens.clone(), places()
    second = head.draw_tokens(*_inputs(1))
    assert places() == at
    assert torch.equal(first.tokens, tokens)
    assert not torch.equal(second.tokens, tokens)
    # Another shape has memory of its own.
    head.draw_tokens(*_inputs(2, 3))
    assert places()[: len(at)] == at


def test_a_batch_that_failed_leaves_nothing_to_the_next() -> None:
    weights = random_weights(TINY_RARM)
    # A code on whose embedding logits are not finite: samples fail once they draw it.
    weights["transformer.proj_in.weight"][3] = torch.inf
    plain, looped = (_head(compile, {**weights}, top_k=1) for compile in (False, True))
    drawn = [plain.draw_tokens(*_inputs(seed, 2)) for seed in range(8)]
    failed = [seed for seed in range(8) if (drawn[seed].failed_at >= 0).any()]
    whole = [seed for seed in range(8) if seed not in failed]
    assert failed
    assert whole
    for seed in (failed[0], whole[0], failed[-1], whole[-1]):
        assert _equal(looped.draw_tokens(*_inputs(seed, 2)), drawn[seed])


@pytest.mark.parametrize(("count", "shapes"), [(3, {3}), (8, {4}), (9, {3}), (10, {4})])
def test_parts_that_are_decoded_have_one_shape(count: int, shapes: set[int]) -> None:
    latents = torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1, 1)
    seen = set()

    def decode(part: torch.Tensor) -> torch.Tensor:
        seen.add(len(part))
        return 2 * part

    # Four images of this size at once.
    images = decode_in_parts(decode, latents, 128, even=True)
    assert seen == shapes
    assert torch.equal(images, 2 * latents)
    assert np.array_equal(decode_in_parts(decode, latents, 128).numpy(), images.numpy())


def test_large_images_are_decoded_alone_on_a_cpu() -> None:
    seen = []
    decode_in_parts(lambda part: seen.append(len(part)) or part, torch.zeros(3, 1, 1, 1), 256)
    assert seen == [1, 1, 1]
