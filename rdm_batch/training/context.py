"""What a head is shown beside each training image: its neighbors, or nothing."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@runtime_checkable
class TrainingContext(Protocol):
    """Gives the context of training images."""

    def __call__(
        self, rows: Int64[Tensor, " batch"], generator: torch.Generator
    ) -> Float[Tensor, "batch k_nn dim"]:
        """Give the context of the training images in ``rows``."""
        ...


class NeighborContext:
    """Show the nearest database entries, and to a share of the examples zeros.

    Args:
        neighbor_ids: Database rows nearest to each training image, best first.
        embeddings: Database embeddings, as stored (not normalized).
        k_train: Neighbors given, the first of ``neighbor_ids``.
        zero_share: Share of the examples whose context is zero, for guidance.
    """

    def __init__(
        self,
        neighbor_ids: Int64[Tensor, "image k"],
        embeddings: Float[Tensor, "row dim"],
        k_train: int,
        zero_share: float,
    ) -> None:
        self._neighbor_ids = neighbor_ids[:, :k_train]
        self._embeddings = embeddings
        self._zero_share = zero_share

    def __call__(
        self, rows: Int64[Tensor, " batch"], generator: torch.Generator
    ) -> Float[Tensor, "batch k_nn dim"]:
        """Give the neighbors of the training images in ``rows``."""
        without = torch.rand(rows.shape, generator=generator) < self._zero_share
        context = self._embeddings[self._neighbor_ids[rows]]
        return context.masked_fill(without[:, None, None], 0.0)


class NoContext:
    """Show a single entry of zeros, as a fully parametric head sees it when it generates.

    Args:
        dim: Width of the context.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def __call__(
        self, rows: Int64[Tensor, " batch"], generator: torch.Generator
    ) -> Float[Tensor, "batch 1 dim"]:
        """Give zeros for each of ``rows``."""
        return torch.zeros(len(rows), 1, self._dim)
