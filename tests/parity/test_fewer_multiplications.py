"""The networks as heads on CPU arrange them, beside what the published code gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rdm_batch.heads.native_tokens import NativeTransformer
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.models import filtering, streamed
from rdm_batch.models.filtering import filter_convolutions
from rdm_batch.models.networks import RarmNetworks, RdmNetworks
from rdm_batch.models.packed import pack_linears
from rdm_batch.models.transformer import CausalTransformer
from rdm_batch.sampling.autoregressive import TokenSampler
from tests.compare import relative_error
from tests.parity.conftest import RARM_MINI, RDM_MINI
from tests.parity.recipe import rarm_weights, rdm_weights
from tests.tolerances import DECODED_REL, NETWORK_REL

Oracle = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _arrange_narrow_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded networks are narrow, and only wide layers are arranged otherwise."""
    monkeypatch.setattr(filtering, "_WIDE", 1)
    monkeypatch.setattr(streamed, "_WIDE", 1)


def test_unet_and_decoder_give_what_was_recorded(
    rdm_oracle: Oracle,
) -> None:
    x, times, context = (
        torch.from_numpy(rdm_oracle[f"unet_{name}"]) for name in ("x", "t", "context")
    )
    networks = RdmNetworks(RDM_MINI)
    networks.load_state_dict(rdm_weights(networks, ema=True))
    networks.eval().requires_grad_(False)
    pack_linears(networks)
    filter_convolutions(networks)
    unet = networks.unet
    assert any(isinstance(part, filtering.FilteredConv3x3) for part in unet.modules())
    eps = unet.predict(x, unet.time_biases(times), unet.context_features(context, True))
    expected = np.concatenate([rdm_oracle["unet_eps_ema"], rdm_oracle["unet_eps_ema_zero_ctx"]])
    assert relative_error(eps, expected) <= NETWORK_REL
    images = networks.autoencoder.decode(torch.from_numpy(rdm_oracle["z"]))
    assert relative_error(images, rdm_oracle["z_decoded"]) <= DECODED_REL


@pytest.mark.parametrize("scale", [1, 2])
def test_a_head_draws_the_recorded_tokens_and_images(rarm_oracle: Oracle, scale: int) -> None:
    networks = RarmNetworks(RARM_MINI)
    networks.load_state_dict(rarm_weights(networks))
    head = RarmHead(networks, TokenSampler(top_k=1), float(scale))
    kinds = {type(part) for part in networks.modules()}
    assert {filtering.FilteredConv3x3, streamed.StreamedLinear} <= kinds
    context = torch.from_numpy(rarm_oracle["context"])
    drawn = head.sample_tokens(context, lambda p, position: p.argmax(1))
    assert np.array_equal(drawn.tokens.numpy(), rarm_oracle[f"greedy_s{scale}/tokens"])
    images = head.decode(torch.from_numpy(rarm_oracle["decode_ids"]))
    assert relative_error(images, rarm_oracle["decode_image"]) <= DECODED_REL


@pytest.mark.parametrize("native", [False, True])
def test_logits_token_by_token_are_the_recorded_ones(
    rarm_oracle: Oracle, native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = RarmNetworks(RARM_MINI)
    networks.load_state_dict(rarm_weights(networks))
    transformer: CausalTransformer | NativeTransformer
    transformer = networks.eval().requires_grad_(False).transformer
    if native:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        transformer = NativeTransformer(transformer)
    else:
        streamed.stream_linears(transformer)
    tokens = torch.from_numpy(rarm_oracle["tokens_in"])
    generation = transformer.start(torch.from_numpy(rarm_oracle["context"]), guided=True)
    steps = [transformer.next_logits(tokens[:, i], i, generation) for i in range(64)]
    conditional, unconditional = torch.stack(steps, dim=1).chunk(2)
    assert relative_error(conditional, rarm_oracle["logits"]) <= NETWORK_REL
    assert relative_error(unconditional, rarm_oracle["logits_zero_ctx"]) <= NETWORK_REL
