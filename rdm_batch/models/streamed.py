"""Linear layers that read their weights once from memory, for a CPU that draws token by token.

A product of few rows with a large matrix takes as long as reading the matrix. Here the matrix lies
in the order it is read in, in large pages, and is multiplied in blocks whose sums stay in
registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rdm_batch.models.huge_pages import in_huge_pages
from rdm_batch.models.layers import Attention
from rdm_batch.models.packed import PositionwiseLinear

_WIDE: Final = 2**18
"""Weights of a layer from which on reading them counts more than calling it: one MiB."""

_BLOCK: Final = 48
"""Outputs of a block: three vectors of 16 numbers, with eight rows the registers of AVX-512."""


class StreamedLinear(nn.Module):
    """Apply a linear layer to few rows; for inference on CPU.

    Args:
        weight: Rows of the output by columns of the input.
        bias: Added to the output; None adds nothing.
    """

    def __init__(
        self,
        weight: Float[Tensor, "out_channel in_channel"],
        bias: Float[Tensor, " out_channel"] | None,
    ) -> None:
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._out_channels = len(weight)
        missing = -len(weight) % _BLOCK
        rows = nn.functional.pad(weight.detach(), (0, 0, 0, missing))
        self._blocks = in_huge_pages(rows.unflatten(0, (-1, _BLOCK)).transpose(1, 2))
        self._of_blocks = rows.new_zeros(len(rows) // _BLOCK, _BLOCK)
        if bias is not None:
            self._of_blocks.view(-1)[: len(bias)] = bias

    def forward(self, x: Float[Tensor, "*batch in_channel"]) -> Float[Tensor, "*batch out_channel"]:
        """Transform the last dimension."""
        rows = x.reshape(-1, x.shape[-1])
        products = torch.bmm(rows.expand(len(self._blocks), -1, -1), self._blocks)
        out = x.new_empty(len(rows), *self._of_blocks.shape)
        torch.add(products.transpose(0, 1), self._of_blocks, out=out)
        return out.view(*x.shape[:-1], -1)[..., : self._out_channels]


def _joined(layers: Sequence[nn.Linear]) -> StreamedLinear:
    """Give one layer for several of the same input, whose outputs follow each other."""
    weights: list[Tensor] = [layer.weight for layer in layers]
    if any(layer.bias is None for layer in layers):
        return StreamedLinear(torch.cat(weights), None)
    biases: list[Tensor] = [layer.bias for layer in layers]
    return StreamedLinear(torch.cat(weights), torch.cat(biases))


@torch.no_grad()
def stream_linears(module: nn.Module) -> None:
    """Replace every wide linear layer below a module, freeing its weights.

    Args:
        module: On CPU, in float32, given a few rows at once, and not to be trained, moved,
            converted or saved afterwards.
    """
    for name, child in module.named_children():
        if isinstance(child, Attention) and child.within and child.to_all is None:
            layers = [child.to_q, child.to_k, child.to_v]
            if all(isinstance(layer, nn.Linear) and _is_wide(layer.weight) for layer in layers):
                child.to_all = _joined(layers)
                del child.to_q, child.to_k, child.to_v
        if isinstance(child, PositionwiseLinear) and _is_wide(child.weight):
            setattr(module, name, StreamedLinear(child.weight[:, :, 0], child.bias))
        elif isinstance(child, nn.Linear) and _is_wide(child.weight):
            setattr(module, name, StreamedLinear(child.weight, child.bias))
        else:
            stream_linears(child)


def _is_wide(weight: Tensor) -> bool:
    return weight.numel() >= _WIDE
