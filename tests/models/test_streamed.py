from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rdm_batch.models import streamed
from rdm_batch.models.huge_pages import huge_empty, in_huge_pages
from rdm_batch.models.networks import RarmNetworks, load_networks
from rdm_batch.models.streamed import StreamedLinear, stream_linears
from rdm_batch.models.transformer import CausalTransformer
from tests.compare import relative_error
from tests.tiny_heads import TINY_RARM, random_weights
from tests.tolerances import REORDERED_REL


@pytest.mark.parametrize("rows", [1, 2, 5, 16])
@pytest.mark.parametrize(("in_channels", "out_channels"), [(64, 96), (33, 100), (20, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_linear_layer(rows: int, in_channels: int, out_channels: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(in_channels, out_channels, bias, dtype=torch.float64).requires_grad_(False)
    x = torch.randn(rows, 1, in_channels, dtype=torch.float64)
    expected = layer(x)
    found = StreamedLinear(layer.weight, layer.bias)
    # Twice: what a call leaves behind would show.
    for _ in range(2):
        assert relative_error(found(x), expected) < 1e-14
        assert relative_error(found(x[:, 0]), expected[:, 0]) < 1e-14


def test_room_in_large_pages_is_zero_aligned_and_its_own() -> None:
    one, other = (huge_empty((3, 2**19), torch.float32) for _ in range(2))
    assert one.shape == (3, 2**19)
    assert not one.any()
    assert one.data_ptr() % 2**21 == 0
    one.fill_(1)
    assert not other.any()
    small = torch.arange(6).reshape(2, 3).T
    assert in_huge_pages(small).is_contiguous()
    large = torch.randn(1024, 1024).T
    assert torch.equal(in_huge_pages(large), large)


def _transformer() -> CausalTransformer:
    networks = load_networks(TINY_RARM, random_weights(TINY_RARM))
    assert isinstance(networks, RarmNetworks)
    return networks.transformer.requires_grad_(False)


def _logits(transformer: CausalTransformer) -> torch.Tensor:
    torch.manual_seed(1)
    context = torch.randn(3, 2, 6)
    tokens = torch.randint(18, (3, 16))
    generation = transformer.start(context, guided=True)
    steps = [transformer.next_logits(tokens[:, i], i, generation) for i in range(16)]
    return torch.stack(steps)


def test_a_transformer_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = _transformer()
    plain = _logits(transformer)
    # Narrow layers are left alone, to the last byte of what they give.
    untouched = copy.deepcopy(transformer)
    stream_linears(untouched)
    assert not any(isinstance(part, StreamedLinear) for part in untouched.modules())
    assert torch.equal(_logits(untouched), plain)
    monkeypatch.setattr(streamed, "_WIDE", 1)
    stream_linears(transformer)
    assert not any(isinstance(part, nn.Linear) for part in transformer.modules())
    assert relative_error(_logits(transformer), plain) < REORDERED_REL
    # A head may be built around networks that another one has arranged.
    stream_linears(transformer)
    assert relative_error(_logits(transformer), plain) < REORDERED_REL
