"""Linear layers whose weights lie in memory as the CPU's kernels multiply them.

A product of few rows with a large matrix, as an autoregressive head computes for every
token, otherwise spends most of its time rearranging the matrix.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PositionwiseLinear(nn.Conv1d):
    """Apply a linear layer that is stored, as published, as a convolution of width 1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "*batch in_channel"]) -> Float[Tensor, "*batch out_channel"]:
        """Transform the last dimension."""
        return nn.functional.linear(x, self.weight[:, :, 0], self.bias)


class PackedLinear(nn.Module):
    """Apply a linear layer by oneDNN, with weights rearranged once; for inference on CPU.

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
        # Of a layout only oneDNN knows: neither moved nor saved with the module.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())

    def forward(self, x: Float[Tensor, "*batch in_channel"]) -> Float[Tensor, "*batch out_channel"]:
        """Transform the last dimension."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
        return out


def can_pack(dtype: torch.dtype) -> bool:
    """Say whether this CPU and this build of torch multiply packed weights of a type."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


@torch.no_grad()
def pack_linears(module: nn.Module) -> None:
    """Replace every linear layer below a module by a packed one, freeing its weights.

    Args:
        module: On CPU, of a type that ``can_pack`` allows, and not to be trained, moved,
            converted or saved afterwards.
    """
    for name, child in module.named_children():
        if isinstance(child, PositionwiseLinear):
            setattr(module, name, PackedLinear(child.weight[:, :, 0], child.bias))
        elif isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child.weight, child.bias))
        else:
            pack_linears(child)
