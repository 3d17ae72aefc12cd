"""Convolutions of 3 x 3 pixels, as the networks' layers are and as checkpoints store them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


@runtime_checkable
class Convolution(Protocol):
    """A convolution of 3 x 3 pixels, however it is computed."""

    bias: nn.Parameter | None

    def convolve(
        self,
        x: Float[Tensor, "batch in_channel height width"],
        bias: Float[Tensor, " out_channel"] | None,
    ) -> Float[Tensor, "batch out_channel height width"]:
        """Convolve, and add a bias in place of the layer's own; None adds nothing."""
        ...


class Conv3x3(nn.Conv2d):
    """Convolve 3 x 3 pixels, with zeros around the image.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def convolve(
        self,
        x: Float[Tensor, "batch in_channel height width"],
        bias: Float[Tensor, " out_channel"] | None,
    ) -> Float[Tensor, "batch out_channel height width"]:
        """Convolve, and add a bias in place of the layer's own; None adds nothing."""
        return F.conv2d(x, self.weight, bias, padding=1)


class Upsample(nn.Module):
    """Double the resolution by repeating pixels, then convolve.

    Args:
        channels: Channels of the image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel double_height double_width"]:
        """Double height and width."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return out
