from __future__ import annotations

import pytest
import torch

from rdm_batch.models import codebook as codebook_module
from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder, build_autoencoder
from rdm_batch.specs.networks import KlAutoencoderConfig, VqAutoencoderConfig
from rdm_batch.specs.presets import PRESETS
from tests.tiny_heads import TINY_KL, TINY_RDM


@pytest.fixture
def vq() -> VqAutoencoder:
    torch.manual_seed(0)
    return VqAutoencoder(TINY_RDM.autoencoder)


def _images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    ("config", "num_parameters", "num_tensors"),
    [
        (PRESETS["rdm-imagenet-256"].autoencoder, 55_322_782, 205),
        (PRESETS["rarm-imagenet-256"].autoencoder, 76_073_859, 343),
        (PRESETS["rdm-768"].autoencoder, None, 342),
        (PRESETS["knn-discrete-256"].autoencoder, 65_532_547, 299),
    ],
    ids=["vq-f4", "vq-f16", "kl-f16", "vq-f8"],
)
def test_published_sizes_have_published_parameter_counts(
    config: VqAutoencoderConfig | KlAutoencoderConfig, num_parameters: int | None, num_tensors: int
) -> None:
    with torch.device("meta"):
        network = build_autoencoder(config)
    if num_parameters is not None:
        assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters
    assert len(network.state_dict()) == num_tensors


def test_latents_have_the_configured_shape(vq: VqAutoencoder) -> None:
    latents = vq.encode(_images())
    assert latents.shape == (2, 3, 8, 8)
    assert vq.decode(latents).shape == (2, 3, 16, 16)


def test_quantization_finds_the_nearest_word_by_brute_force(
    vq: VqAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)) / 16
    words = vq.quantize.embedding.weight
    distances = (latents.movedim(1, -1)[..., None, :] - words).square().sum(-1)
    expected = distances.argmin(-1)
    assert torch.equal(vq.quantize.nearest(latents), expected)
    monkeypatch.setattr(codebook_module, "_DISTANCES_AT_ONCE", 40)  # two positions at once
    assert torch.equal(vq.quantize.nearest(latents), expected)


def test_straight_through_gradient_reaches_the_encoder_past_the_codebook(
    vq: VqAutoencoder,
) -> None:
    reconstruction, quantized = vq(_images())
    (reconstruction.square().mean() + quantized.loss).backward()
    untouched = [
        name
        for name, parameter in vq.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert untouched == []


def test_codebook_loss_moves_words_and_commitment_loss_moves_latents() -> None:
    codebook = codebook_module.Codebook(2, 1)
    with torch.no_grad():
        codebook.embedding.weight.copy_(torch.tensor([[0.0], [10.0]]))
    latents = torch.full((1, 1, 1, 1), 2.0, requires_grad=True)
    quantized = codebook(latents)
    assert quantized.loss.item() == pytest.approx(4.0 * 1.25)
    quantized.loss.backward()
    assert codebook.embedding.weight.grad[:, 0].tolist() == [-4.0, 0.0]
    assert latents.grad.item() == pytest.approx(1.0)


def test_kl_log_variance_is_clamped() -> None:
    network = KlAutoencoder(TINY_KL)
    with torch.no_grad():
        network.quant_conv.bias[3:] = 1e3
    mean, log_variance = network.moments(_images())
    assert torch.equal(network.encode(_images()), mean)
    assert mean.shape == (2, 3, 8, 8)
    assert log_variance.unique().tolist() == [20.0]
    assert network.decode(mean).shape == (2, 3, 16, 16)
