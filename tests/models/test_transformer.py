from __future__ import annotations

import pytest
import torch

from rdm_batch.errors import SpecError
from rdm_batch.models.networks import RarmNetworks, load_networks, tensor_shapes
from rdm_batch.models.transformer import CausalTransformer
from rdm_batch.specs.presets import PRESETS
from tests.compare import relative_error
from tests.tiny_heads import TINY_RARM, random_weights
from tests.tolerances import REORDERED_REL


@pytest.fixture
def transformer() -> CausalTransformer:
    networks = load_networks(TINY_RARM, random_weights(TINY_RARM))
    assert isinstance(networks, RarmNetworks)
    return networks.transformer


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(18, (3, 16), generator=generator)
    return tokens, torch.randn(3, 2, 6, generator=generator)


def test_published_size_has_the_published_parameter_count() -> None:
    shapes = tensor_shapes(PRESETS["rarm-imagenet-256"])
    sizes = [
        torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith("transf")
    ]
    assert len(sizes) == 364
    assert sum(sizes) == 230_874_112


def test_logits_depend_on_no_later_token(transformer: CausalTransformer) -> None:
    tokens, context = _inputs()
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 18
    difference = (transformer(tokens, context) - transformer(changed, context)).abs().amax((0, 2))
    assert not difference[:9].any()
    assert difference[9:].all()


@pytest.mark.parametrize("guided", [False, True])
def test_token_by_token_equals_the_whole_sequence(
    transformer: CausalTransformer, guided: bool
) -> None:
    tokens, context = _inputs()
    generation = transformer.start(context, guided)
    steps = [transformer.next_logits(tokens[:, i], i, generation) for i in range(16)]
    expected = [transformer(tokens, context)]
    if guided:
        expected.append(transformer(tokens, torch.zeros_like(context)))
    assert relative_error(torch.stack(steps, dim=1), torch.cat(expected)) <= REORDERED_REL


def test_more_tokens_than_positions_are_refused(transformer: CausalTransformer) -> None:
    tokens, context = _inputs()
    with pytest.raises(SpecError, match="17 tokens; needed at most 16 positions"):
        transformer(torch.cat([tokens, tokens[:, :1]], dim=1), context)


def test_every_parameter_receives_a_gradient(transformer: CausalTransformer) -> None:
    transformer.requires_grad_(True)
    transformer(*_inputs()).square().sum().backward()
    untouched = [
        name
        for name, parameter in transformer.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert untouched == []
