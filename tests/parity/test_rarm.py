from __future__ import annotations

import numpy as np
import pytest
import torch

from rdm_batch.heads.rarm import RarmHead
from rdm_batch.models.networks import RarmNetworks
from rdm_batch.models.pixels import to_uint8
from rdm_batch.sampling.autoregressive import TokenSampler
from tests.compare import relative_error
from tests.parity.conftest import multinomial
from tests.tolerances import DECODED_REL, NETWORK_REL

Oracle = dict[str, np.ndarray]

DRAWS = ["topk12_s1_T1", "topk12_s1_T0.7", "topk12_s2_T1", "topk12_s2_T0.7"]


@pytest.mark.parametrize(
    ("name", "num_tokens", "k_nn", "scale"),
    [("logits", 64, 4, 1.0), ("logits_zero_ctx", 64, 4, 0.0), ("logits_k1", 8, 1, 1.0)],
)
def test_logits_are_the_published_ones(
    rarm_networks: RarmNetworks,
    rarm_oracle: Oracle,
    name: str,
    num_tokens: int,
    k_nn: int,
    scale: float,
) -> None:
    tokens = torch.from_numpy(rarm_oracle["tokens_in"])[:, :num_tokens]
    context = torch.from_numpy(rarm_oracle["context"])[:, :k_nn] * scale
    logits = rarm_networks.transformer(tokens, context)
    assert relative_error(logits, rarm_oracle[name]) <= NETWORK_REL


def test_logits_of_both_branches_token_by_token_are_the_published_ones(
    rarm_networks: RarmNetworks, rarm_oracle: Oracle
) -> None:
    transformer = rarm_networks.transformer
    tokens = torch.from_numpy(rarm_oracle["tokens_in"])
    generation = transformer.start(torch.from_numpy(rarm_oracle["context"]), guided=True)
    steps = [transformer.next_logits(tokens[:, i], i, generation) for i in range(64)]
    conditional, unconditional = torch.stack(steps, dim=1).chunk(2)
    assert relative_error(conditional, rarm_oracle["logits"]) <= NETWORK_REL
    assert relative_error(unconditional, rarm_oracle["logits_zero_ctx"]) <= NETWORK_REL


@pytest.mark.parametrize("scale", [1, 2])
def test_greedy_tokens_are_the_published_ones(
    rarm_networks: RarmNetworks, rarm_oracle: Oracle, scale: int
) -> None:
    head = RarmHead(rarm_networks, TokenSampler(top_k=1), float(scale))
    context = torch.from_numpy(rarm_oracle["context"])
    drawn = head.sample_tokens(context, lambda p, position: p.argmax(1))
    assert np.array_equal(drawn.tokens.numpy(), rarm_oracle[f"greedy_s{scale}/tokens"])


@pytest.mark.parametrize("case", DRAWS)
def test_drawn_tokens_and_their_probabilities_are_the_published_ones(
    rarm_networks: RarmNetworks, rarm_oracle: Oracle, case: str
) -> None:
    scale, temperature, top_k = rarm_oracle[f"{case}/meta"][:3]
    noise = torch.from_numpy(rarm_oracle[f"{case}/exp_noise"])
    probabilities = []
    head = RarmHead(rarm_networks, TokenSampler(float(temperature), int(top_k)), float(scale))
    drawn = head.sample_tokens(
        torch.from_numpy(rarm_oracle["context"]),
        multinomial(noise),
        lambda position, p, token: probabilities.append(p),
    )
    assert np.array_equal(drawn.tokens.numpy(), rarm_oracle[f"{case}/tokens"])
    if f"{case}/probs" in rarm_oracle:
        found = torch.stack(probabilities, dim=1)
        assert relative_error(found, rarm_oracle[f"{case}/probs"]) <= NETWORK_REL


def test_tokens_for_a_single_neighbor_are_the_published_ones(
    rarm_networks: RarmNetworks, rarm_oracle: Oracle
) -> None:
    noise = torch.from_numpy(rarm_oracle["only_caption/exp_noise"])
    drawn = RarmHead(rarm_networks, TokenSampler(top_k=12), 2.0).sample_tokens(
        torch.from_numpy(rarm_oracle["only_caption/context"]), multinomial(noise)
    )
    assert np.array_equal(drawn.tokens.numpy(), rarm_oracle["only_caption/tokens"])


def test_codes_decode_to_the_published_images(
    rarm_networks: RarmNetworks, rarm_oracle: Oracle
) -> None:
    head = RarmHead(rarm_networks, TokenSampler())
    images = head.decode(torch.from_numpy(rarm_oracle["decode_ids"]))
    assert relative_error(images, rarm_oracle["decode_image"]) <= DECODED_REL
    published = to_uint8(torch.from_numpy(rarm_oracle["decode_image"]))
    assert np.array_equal(published.numpy(), rarm_oracle["decode_uint8"])


def test_images_encode_to_the_published_codes(
    rarm_networks: RarmNetworks, rarm_oracle: Oracle
) -> None:
    autoencoder = rarm_networks.autoencoder
    ids = autoencoder.quantize.nearest(autoencoder.encode(torch.from_numpy(rarm_oracle["img"])))
    assert np.array_equal(ids.flatten(1).numpy(), rarm_oracle["img_ids"])
