"""3 x 3 convolutions of wide layers by fewer multiplications, for inference on CPU.

Minimal filtering (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308) along the height alone:
rows of the image are combined, each combination is multiplied with kernels of one row, and rows
of the output are sums of the products. In exact arithmetic nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from rdm_batch.models.convolutions import Conv3x3, Upsample
from rdm_batch.models.huge_pages import empty_in_huge_pages

# Exact in binary. The customary 0, 1, -1, 2, -2 make errors half as large again
# (tests/models/test_filtering.py).
_POINTS: Final = (0.0, 0.75, -0.75, 1.5, -1.5)
_WIDE: Final = 128
"""Channels from which on combining and summing rows costs little beside the products."""

_ROWS_AT_ONCE: Final = 1024
"""Rows of a product: enough to multiply at full speed, few enough to stay in caches."""
_OUTPUTS_AT_ONCE: Final = 64


@dataclass(frozen=True)
class Filter:
    """Say how rows are combined and their products summed.

    Attributes:
        of_rows: The combinations of a window of rows.
        of_kernel: The combinations of the kernel's three rows that they are multiplied with.
        of_sums: The rows of the output, of the products.
        step: Rows from one window to the next.
        columns: For each column that a pixel becomes, the columns of the kernel that the pixel to
            its left, the pixel itself and the pixel to its right are multiplied with the sum of.
    """

    of_rows: Float64[np.ndarray, "combination row"]
    of_kernel: Float64[np.ndarray, "combination 3"]
    of_sums: Float64[np.ndarray, "out combination"]
    step: int
    columns: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...]


def minimal_filter(points: Sequence[float]) -> Filter:
    """Give F(4, 3): four rows from six products of six rows, where 4 x 3 would be multiplied.

    Products of polynomials are found from their values at some points (Toom and Cook); read
    backwards that is a filter.

    Args:
        points: Five of them; infinity is the sixth.
    """
    places = np.array(points)
    others = [np.delete(places, place) for place in range(len(places))]
    of_sums = np.vander(places, 4, increasing=True).T
    of_sums = np.column_stack([of_sums, [0, 0, 0, 1]])
    scales = np.array([np.prod(point - rest) for point, rest in zip(places, others, strict=True)])
    of_kernel = np.vstack([np.vander(places, 3, increasing=True) / scales[:, None], [0, 0, 1]])
    of_rows = np.vstack(
        [*(np.append(np.poly(rest)[::-1], 0) for rest in others), np.poly(places)[::-1]]
    )
    # Powers of two change no digits: with them all combinations are about as large as the rows.
    sizes = 2 ** np.round(np.log2(np.abs(of_rows).sum(axis=1)))
    weights = 2 ** np.round(np.log2(np.abs(of_sums).max(axis=0)))
    return Filter(
        of_rows / sizes[:, None],
        of_kernel * (sizes * weights)[:, None],
        of_sums / weights,
        step=4,
        columns=(((0,), (1,), (2,)),),
    )


MINIMAL: Final = minimal_filter(_POINTS)
"""The convolution itself: half the multiplications."""

DOUBLED: Final = Filter(
    of_rows=np.array([[1.0, -1.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 1.0]]),
    of_kernel=np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]),
    of_sums=np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]),
    step=1,
    columns=(((0,), (1, 2), ()), ((), (0, 1), (2,))),
)
"""The convolution of an image of twice the size, every pixel repeated: a third of them. A row and
its differences from those beside it give two rows; columns that meet the same pixel are added."""


class FilteredConv3x3(nn.Module):
    """Convolve 3 x 3 pixels by minimal filtering; for inference on CPU.

    Args:
        weight: Of the convolution.
        bias: Added to the output; None adds nothing.
        how: ``MINIMAL``, or ``DOUBLED`` to double the resolution before by repeating pixels.
    """

    def __init__(
        self,
        weight: Float[Tensor, "out_channel in_channel 3 3"],
        bias: Float[Tensor, " out_channel"] | None,
        how: Filter = MINIMAL,
    ) -> None:
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.step, self.out_channels = how.step, weight.shape[0]
        self.of_rows = torch.from_numpy(how.of_rows).to(weight.dtype)
        self.of_sums = torch.from_numpy(how.of_sums).to(weight.dtype)
        of_kernel, weight = torch.from_numpy(how.of_kernel), weight.detach()
        shape = (len(of_kernel), weight.shape[1], weight.shape[0])

        def kernel(added: tuple[int, ...]) -> Tensor:
            combined = empty_in_huge_pages(shape, weight.dtype)
            # In parts: in double precision a whole layer would take several times its memory.
            for part, out in zip(
                weight.split(_OUTPUTS_AT_ONCE), combined.split(_OUTPUTS_AT_ONCE, dim=2), strict=True
            ):
                exact = part[..., list(added)].double().sum(-1)
                out.copy_(torch.einsum("fk,oik->fio", of_kernel, exact))
            return combined

        # For every column that a pixel becomes: pixels beside it, and what they meet.
        self.columns = [
            [(pixel, kernel(added)) for pixel, added in enumerate(column) if added]
            for column in how.columns
        ]

    def forward(
        self, x: Float[Tensor, "batch in_channel height width"]
    ) -> Float[Tensor, "batch out_channel out_height out_width"]:
        """Convolve with the bias of the layer."""
        return self.convolve(x, self.bias)

    def convolve(
        self,
        x: Float[Tensor, "batch in_channel height width"],
        bias: Float[Tensor, " out_channel"] | None,
    ) -> Float[Tensor, "batch out_channel out_height out_width"]:
        """Convolve, and add a bias in place of the layer's own; None adds nothing.

        Returns:
            The output, channels last.
        """
        batch, _, height, width = x.shape
        windows = -(-height // self.step)
        at_once = max(1, _ROWS_AT_ONCE // (width + 2))
        images = max(1, min(batch, at_once // windows))
        # As equal parts as there can be.
        at_once = -(-windows // -(-windows // at_once))
        out_rows, out_width = len(self.of_sums), width * len(self.columns)
        out = x.new_empty(batch, windows, out_rows, out_width, self.out_channels)
        desk = _Desk(self, x, images, at_once)
        for image in range(0, batch, images):
            for window in range(0, windows, at_once):
                part = out[image : image + images, window : window + at_once]
                desk.convolve(x[image : image + images], window, part.flatten(0, 1))
                if bias is not None:
                    part += bias
        rows = out.view(batch, windows * out_rows, out_width, -1)
        # The last window may reach below the image.
        rows = rows[:, : height * out_rows // self.step]
        return rows.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def pays(layer: Conv3x3) -> bool:
    """Say whether a layer is wide enough that combining and summing rows costs little beside it."""
    return min(layer.in_channels, layer.out_channels) >= _WIDE


@torch.no_grad()
def filter_convolutions(module: nn.Module) -> None:
    """Replace every wide 3 x 3 convolution below a module, freeing its weights.

    Args:
        module: On CPU, in float32, and not to be trained, moved, converted or saved afterwards.
    """
    for name, child in module.named_children():
        if isinstance(child, Upsample) and pays(child.conv):
            setattr(module, name, FilteredConv3x3(child.conv.weight, child.conv.bias, DOUBLED))
        elif isinstance(child, Conv3x3) and pays(child):
            setattr(module, name, FilteredConv3x3(child.weight, child.bias))
        else:
            filter_convolutions(child)


class _Desk:
    """Room to convolve a part of a batch in, and to go on to the next.

    Args:
        layer: What is convolved with.
        x: The whole batch.
        images: How many at once.
        windows: How many of each image at once.
    """

    def __init__(self, layer: FilteredConv3x3, x: Tensor, images: int, windows: int) -> None:
        self._layer = layer
        channels, width = x.shape[1], x.shape[3]
        combinations, rows = layer.of_rows.shape
        self._overlap = rows - layer.step
        # Zeros stand to the left and to the right of every row, and stay there.
        self._padded = x.new_zeros(
            images, windows * layer.step + self._overlap, width + 2, channels
        )
        self._combined = x.new_empty(combinations, images * windows, (width + 2) * channels)
        self._products = x.new_empty(
            combinations, images * windows * (width + 2), len(layer.columns) * layer.out_channels
        )

    def convolve(
        self,
        x: Float[Tensor, "image in_channel height width"],
        first: int,
        out: Float[Tensor, "window out_row out_width out_channel"],
    ) -> None:
        """Convolve some windows of some images.

        Args:
            x: The images.
            first: Window of every image to begin with.
            out: Receives the rows, one image after the other.
        """
        layer, images, width = self._layer, len(x), x.shape[3]
        windows = len(out) // images
        self._combine(x, first, windows)
        # A product's row is a pixel; those after the last of an image's row are of no use.
        pixels = len(out) * (width + 2) - 2
        combined = self._combined.view(len(layer.of_rows), -1, x.shape[1])
        for column, kernels in enumerate(layer.columns):
            channels = slice(column * layer.out_channels, (column + 1) * layer.out_channels)
            products = self._products[:, :pixels, channels]
            (shift, kernel), *others = kernels
            torch.bmm(combined[:, shift : shift + pixels], kernel, out=products)
            for shift, kernel in others:
                products.baddbmm_(combined[:, shift : shift + pixels], kernel)
        length = self._products.shape[2]
        of_windows = self._products.as_strided(
            (len(out), len(layer.of_rows), width * length),
            ((width + 2) * length, self._products.stride(0), 1),
        )
        sums = layer.of_sums.expand(len(out), -1, -1)
        torch.bmm(sums, of_windows, out=out.view(len(out), len(layer.of_sums), -1))

    def _combine(self, x: Tensor, first: int, windows: int) -> None:
        """Combine the rows of some windows, of one image after the other."""
        layer, height = self._layer, x.shape[2]
        top = first * layer.step - 1
        rows = windows * layer.step + self._overlap
        begin, end = max(0, top), min(height, top + rows)
        padded = self._padded[: len(x), :rows]
        padded[:, : begin - top] = 0
        padded[:, end - top :] = 0
        padded[:, begin - top : end - top, 1:-1] = x.permute(0, 2, 3, 1)[:, begin:end]
        length = self._combined.shape[2]
        for place, image in enumerate(padded):
            of_windows = image.as_strided(
                (windows, layer.of_rows.shape[1], length),
                (layer.step * length, length, 1),
                image.storage_offset(),
            )
            combined = self._combined[:, place * windows : (place + 1) * windows].transpose(0, 1)
            torch.bmm(layer.of_rows.expand(windows, -1, -1), of_windows, out=combined)
