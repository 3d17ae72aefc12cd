"""The transformer of codes against diffusers' own, on random weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import Transformer2DModel

from rdm_batch.models import code_transformer
from rdm_batch.models.code_transformer import CodeTransformer
from rdm_batch.specs.networks import CodeTransformerConfig
from rdm_batch.specs.presets import PRESETS
from tests.compare import relative_error
from tests.tolerances import REORDERED_REL

SIZES = {"codebook_size": 32, "depth": 3, "num_heads": 2, "head_channels": 16, "context_dim": 24}


def _pair(gelu: str) -> tuple[CodeTransformer, Transformer2DModel]:
    theirs = Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        num_vector_embeds=33,
        sample_size=4,
        cross_attention_dim=24,
        num_embeds_ada_norm=100,
        attention_bias=True,
        activation_fn={"exact": "gelu", "sigmoid": "geglu-approximate"}[gelu],
        norm_type="ada_norm",
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.15, generator=generator)
    config = CodeTransformerConfig.model_validate({**SIZES, "grid_size": 4, "gelu": gelu})
    ours = CodeTransformer(config).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.parametrize("gelu", ["exact", "sigmoid"])
@torch.inference_mode()
def test_the_network_is_that_of_diffusers(gelu: str) -> None:
    ours, theirs = _pair(gelu)
    generator = torch.Generator().manual_seed(1)
    states = torch.randint(0, 33, (5, 16), generator=generator)
    context = torch.randn(5, 7, 24, generator=generator)
    for time in (1, 50, 100):
        found = ours(states, torch.tensor([time]), ours.keys_values(context)).log_softmax(-1)
        expected = theirs(states, context, timestep=torch.tensor(time - 1)).sample
        # Float32 sums in another order: log-probabilities of up to 4 agree to a few 1e-7.
        torch.testing.assert_close(found.transpose(1, 2), expected, rtol=0, atol=1e-5)


def test_the_preset_is_of_published_size() -> None:
    with torch.device("meta"):
        network = CodeTransformer(PRESETS["knn-discrete-256"].transformer)
    # "About 370 M" of VQ-Diffusion's base, and "about 400 M" of KNN-Diffusion.
    assert sum(parameter.numel() for parameter in network.parameters()) == 388_781_895


@torch.inference_mode()
def test_samples_may_have_times_of_their_own() -> None:
    ours, _ = _pair("exact")
    states, context = torch.arange(16)[None].expand(3, 16), torch.ones(3, 2, 24)
    projected = ours.keys_values(context)
    together = ours(states, torch.tensor([1, 50, 100]), projected)
    for row, time in enumerate((1, 50, 100)):
        alone = ours(states, torch.tensor([time]), projected)[row]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gelu", ["exact", "sigmoid"])
@pytest.mark.parametrize("inner_at_once", [2**21, 5 * 4 * 32])
def test_what_is_computed_in_place_and_in_pieces_is_what_training_computes(
    gelu: str, inner_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five positions a piece, so that pieces reach over samples and the last one is shorter.
    monkeypatch.setattr(code_transformer, "_INNER_AT_ONCE", inner_at_once)
    ours, _ = _pair(gelu)
    states, context = torch.arange(48).reshape(3, 16) % 33, torch.ones(3, 2, 24)
    given = (states, torch.tensor([50]), ours.keys_values(context), True)
    with_gradients = ours(*given)
    assert with_gradients.requires_grad
    with torch.inference_mode():
        assert relative_error(ours(*given), with_gradients.detach()) <= REORDERED_REL


@torch.inference_mode()
def test_attention_to_no_context_is_a_constant() -> None:
    ours, _ = _pair("exact")
    attention = ours.transformer_blocks[0].attn2
    for entries in (1, 5):
        attended = attention(
            torch.randn(2, 3, 32), attention.keys_values(torch.zeros(2, entries, 24))
        )
        torch.testing.assert_close(attended, attention.zero_context_output.expand(2, 3, 32))


@torch.inference_mode()
def test_a_new_network_tells_no_times_apart_and_its_tables_do_not_drown_its_blocks() -> None:
    config = CodeTransformerConfig.model_validate({**SIZES, "grid_size": 4})
    network = CodeTransformer(config)
    states = torch.randint(0, config.codebook_size + 1, (1, config.num_positions))
    projected = network.keys_values(torch.randn(1, 3, config.context_dim))
    first, last = (
        network(states, torch.tensor([time]), projected) for time in (1, config.num_times)
    )
    assert torch.equal(first, last)
    embedded = network.latent_image_embedding(states)
    block = network.transformer_blocks[0]
    added = block(embedded, torch.tensor([0]), projected[0], False) - embedded
    assert float(added.std()) > float(embedded.std())


@torch.inference_mode()
def test_codes_that_stand_for_much_the_same_begin_alike() -> None:
    torch.manual_seed(0)
    # Two of each kind, nearly the same.
    vectors = torch.randn(16, 4).repeat(2, 1) + 0.01 * torch.randn(32, 4) + 3
    network = CodeTransformer(CodeTransformerConfig.model_validate({**SIZES, "grid_size": 4}))
    before = network.latent_image_embedding.emb.weight.std()
    network.begin_with(vectors)
    for table in (network.latent_image_embedding.emb.weight[:-1], network.out.weight):
        cosines = torch.corrcoef(table)
        paired = cosines.diagonal(16).mean()
        others = (cosines.sum() - cosines.trace() - 2 * cosines.diagonal(16).sum()) / (32 * 30)
        assert float(paired) > 0.5 > 5 * abs(float(others))
        assert float(table.std()) == pytest.approx(float(before), rel=0.5)
