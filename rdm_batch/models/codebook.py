"""The codebook of a VQ autoencoder (van den Oord et al. 2017, arXiv:1711.00937)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

# Distances computed at once when looking for code words: 64 MiB in float32.
_DISTANCES_AT_ONCE = 2**24


@dataclass(frozen=True)
class Quantized:
    """Hold quantized latents.

    Attributes:
        latents: The code words; gradients pass straight through to the input.
        ids: Their positions in the codebook.
        loss: Codebook loss plus 0.25 times the commitment loss, a scalar.
    """

    latents: Float[Tensor, "batch channel height width"]
    ids: Int[Tensor, "batch height width"]
    loss: Float[Tensor, ""]


class Codebook(nn.Module):
    """Quantize latents to the nearest code words (van den Oord et al. 2017, Eq. 1-3).

    Args:
        size: Number of code words.
        dim: Width of a code word.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        # Not nn.Embedding(size, dim): drawing its normal weights on the meta device, where
        # networks are built to learn their shapes, imports seconds worth of compiler.
        self.embedding = nn.Embedding(size, dim, _weight=torch.empty(size, dim))
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)

    @torch.no_grad()
    def nearest(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Int[Tensor, "batch height width"]:
        """Find the nearest code word of every position, in float32."""
        words = self.embedding.weight.float()
        lengths = words.square().sum(1)
        points = latents.float().movedim(1, -1).flatten(0, 2)
        rows = max(1, _DISTANCES_AT_ONCE // words.shape[0])
        # |z - e|^2 without |z|^2, which is the same for every e.
        nearest = [
            torch.addmm(lengths, points[start : start + rows], words.T, alpha=-2).argmin(1)
            for start in range(0, points.shape[0], rows)
        ]
        return torch.cat(nearest).reshape(latents.shape[0], *latents.shape[2:])

    def lookup(
        self, ids: Int[Tensor, "batch height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Give the code words at the given positions of the codebook."""
        words: Tensor = self.embedding(ids)
        return words.movedim(-1, 1)

    def forward(self, latents: Float[Tensor, "batch channel height width"]) -> Quantized:
        """Quantize latents for training: straight-through gradients and the loss."""
        ids = self.nearest(latents)
        words = self.lookup(ids)
        loss = F.mse_loss(words, latents.detach()) + 0.25 * F.mse_loss(latents, words.detach())
        return Quantized(latents + (words - latents).detach(), ids, loss)
