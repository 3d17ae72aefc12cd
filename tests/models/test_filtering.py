from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rdm_batch.models import filtering
from rdm_batch.models.autoencoder import Decoder
from rdm_batch.models.convolutions import Conv3x3, Upsample
from rdm_batch.models.filtering import (
    DOUBLED,
    MINIMAL,
    Filter,
    FilteredConv3x3,
    filter_convolutions,
    minimal_filter,
)
from rdm_batch.models.unet import UNet
from tests.compare import relative_error
from tests.tiny_heads import TINY_RDM
from tests.tolerances import REORDERED_REL


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _plain(weight: Tensor, bias: Tensor | None, how: Filter) -> Callable[[Tensor], Tensor]:
    if how is DOUBLED:
        return lambda x: F.conv2d(_double(x), weight, bias, padding=1)
    return lambda x: F.conv2d(x, weight, bias, padding=1)


@pytest.mark.parametrize("how", [MINIMAL, DOUBLED], ids=["minimal", "doubled"])
@pytest.mark.parametrize(
    ("batch", "in_channels", "out_channels", "height", "width"),
    [
        (1, 3, 5, 4, 4),
        (3, 8, 6, 6, 7),  # the last window reaches below the image
        (2, 4, 4, 1, 3),
        (2, 4, 4, 64, 64),  # an image in parts
        (3, 2, 2, 44, 300),  # parts of which the last is shorter
        (30, 4, 4, 8, 8),  # several images at once, at last fewer
    ],
)
def test_it_is_the_convolution_in_exact_arithmetic(
    how: Filter, batch: int, in_channels: int, out_channels: int, height: int, width: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(batch, in_channels, height, width, dtype=torch.float64)
    weight = torch.randn(out_channels, in_channels, 3, 3, dtype=torch.float64)
    bias = torch.randn(out_channels, dtype=torch.float64)
    layer = FilteredConv3x3(weight, bias, how)
    expected = _plain(weight, bias, how)(x)
    assert relative_error(layer(x), expected) < 1e-14
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    other = torch.randn(out_channels, dtype=torch.float64)
    assert relative_error(layer.convolve(x, other), _plain(weight, other, how)(x)) < 1e-14
    assert relative_error(layer.convolve(x, None), _plain(weight, None, how)(x)) < 1e-14
    # Rows that an earlier image left behind would show here.
    assert torch.equal(layer(x), layer(x))


def _errors(channels: int, how: Filter) -> tuple[float, float]:
    """Give the relative RMS error in float32 of a layer, and of the plain one."""
    torch.manual_seed(0)
    weight = torch.randn(channels, channels, 3, 3) / (3 * channels**0.5)
    x = F.silu(torch.randn(2, channels, 16, 16)).contiguous(memory_format=torch.channels_last)
    exact = _plain(weight.double(), None, how)(x.double())

    def rms(found: Tensor) -> float:
        return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())

    return rms(FilteredConv3x3(weight, None, how)(x)), rms(_plain(weight, None, how)(x))


@pytest.mark.parametrize("how", [MINIMAL, DOUBLED], ids=["minimal", "doubled"])
def test_errors_are_those_of_a_plain_layer(how: Filter) -> None:
    filtered, plain = _errors(128, how)
    assert filtered < 2 * plain
    assert filtered < 1e-6


def test_customary_points_make_larger_errors() -> None:
    customary = minimal_filter((0.0, 1.0, -1.0, 2.0, -2.0))
    assert _errors(128, customary)[0] > 1.2 * _errors(128, MINIMAL)[0]


def test_a_sample_is_the_same_alone_and_in_any_batch() -> None:
    torch.manual_seed(0)
    layer = FilteredConv3x3(torch.randn(32, 32, 3, 3), torch.randn(32))
    x = torch.randn(9, 32, 12, 12)
    assert torch.equal(layer(x), layer(x.clone()))
    assert relative_error(layer(x[8:]), layer(x)[8:]) < REORDERED_REL


def _filtered(module: torch.nn.Module) -> int:
    filter_convolutions(module)
    return sum(isinstance(part, FilteredConv3x3) for part in module.modules())


def test_wide_layers_are_replaced_and_no_others() -> None:
    torch.manual_seed(0)
    wide, narrow = Upsample(128), Upsample(127)
    plain = torch.nn.Sequential(wide, narrow, Conv3x3(128, 127), Conv3x3(128, 130))
    assert _filtered(plain) == 2
    assert [type(layer) for layer in plain] == [
        FilteredConv3x3,
        Upsample,
        Conv3x3,
        FilteredConv3x3,
    ]
    assert _filtered(UNet(TINY_RDM.unet)) == 0
    assert _filtered(Decoder(TINY_RDM.autoencoder)) == 0


def test_a_whole_unet_and_decoder_predict_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(filtering, "_WIDE", 1)
    networks = [UNet(TINY_RDM.unet), Decoder(TINY_RDM.autoencoder)]
    for network in networks:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    unet, decoder = (network.eval().requires_grad_(False) for network in networks)
    x, times = torch.randn(3, 3, 8, 8), torch.tensor([1, 20, 900])
    arguments = (x, times, torch.randn(3, 2, 6))
    # One bias for all rows, as in the steps of a solver, beside one for each.
    biases, features = unet.time_biases(times[:1]), unet.context_features(arguments[2], True)
    expected = unet(*arguments), unet.predict(x, biases, features), decoder(x)
    assert _filtered(unet) == 17
    assert _filtered(decoder) == 13
    found = unet(*arguments), unet.predict(x, biases, features), decoder(x)
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < REORDERED_REL
