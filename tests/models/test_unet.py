from __future__ import annotations

import pytest
import torch

from rdm_batch.models.query_unet import QueryUNet
from rdm_batch.models.unet import UNet
from rdm_batch.specs.networks import UNetConfig
from rdm_batch.specs.presets import PRESETS
from tests.compare import relative_error
from tests.tiny_heads import TINY_RDM
from tests.tolerances import REORDERED_REL


def _randomize(unet: UNet) -> UNet:
    """Give the zero-initialized layers weights too, so that every path shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return unet


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    return _randomize(UNet(TINY_RDM.unet))


def _inputs(batch: int = 3, k_nn: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, 3, 8, 8, generator=generator),
        torch.tensor([1, 500, 999][:batch]),
        torch.randn(batch, k_nn, 6, generator=generator),
    )


@pytest.mark.parametrize(
    ("network", "config", "num_parameters", "num_tensors"),
    [
        (UNet, PRESETS["rdm-imagenet-256"].unet, 400_920_579, 688),
        (UNet, PRESETS["rdm-768"].unet, 1_335_480_400, 688),
        # The query's projection, and two roles.
        (QueryUNet, PRESETS["knn-continuous-256"].unet, 400_920_579 + 512 * (768 + 2), 690),
    ],
    ids=["imagenet-256", "768", "knn"],
)
def test_published_sizes_have_published_parameter_counts(
    network: type[UNet], config: UNetConfig, num_parameters: int, num_tensors: int
) -> None:
    with torch.device("meta"):
        unet = network(config)
    assert sum(parameter.numel() for parameter in unet.parameters()) == num_parameters
    assert len(unet.state_dict()) == num_tensors


def test_new_network_predicts_zero() -> None:
    assert not UNet(TINY_RDM.unet)(*_inputs()).any()


def test_guidance_branches_together_equal_branches_apart(unet: UNet) -> None:
    x, _, context = _inputs()
    t = torch.full((3,), 500)
    together = unet.predict(x, unet.time_biases(t[:1]), unet.context_features(context, True))
    apart = torch.cat([unet(x, t, context), unet(x, t, torch.zeros_like(context))])
    assert relative_error(together, apart) <= REORDERED_REL


def test_neighbor_order_does_not_matter(unet: UNet) -> None:
    x, t, context = _inputs(k_nn=3)
    assert relative_error(unet(x, t, context.flip(1)), unet(x, t, context)) <= REORDERED_REL


def test_neighbors_and_times_change_the_prediction(unet: UNet) -> None:
    x, t, context = _inputs()
    reference = unet(x, t, context)
    assert relative_error(unet(x, t, context + 1), reference) > 1e-3
    assert relative_error(unet(x, t - 1, context), reference) > 1e-6


def test_every_parameter_receives_a_gradient(unet: UNet) -> None:
    unet(*_inputs()).square().sum().backward()
    untouched = [
        name
        for name, parameter in unet.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert untouched == []
