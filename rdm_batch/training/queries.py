"""Make queries less certain in training than their images are.

An image's own embedding says everything that its neighbors say, and more: a head that always
sees both learns to believe the query alone. The text that takes the query's place later says
less, and lies elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rdm_batch.specs.training import KnnTraining


@dataclass(frozen=True)
class QueryDisturbance:
    """Move queries, and drop a share of them.

    Attributes:
        noise: Highest length of a random step, in lengths of the query. One of random direction
            makes the embedding of an image one that a text might have (Zhou et al. 2021,
            arXiv:2111.13792, Sec. 3.1).
        mix: Highest share of the way to another image's query. Such a step changes what
            images differ in, which a random direction of many hardly does.
        drop: Share of queries that are zero.
    """

    noise: float
    mix: float
    drop: float

    @classmethod
    def of(cls, spec: KnnTraining) -> QueryDisturbance | None:
        """Take what a training asks for; None where it asks for nothing."""
        asked = (spec.query_noise, spec.query_mix, spec.query_drop)
        return cls(*asked) if any(asked) else None

    def __call__(
        self,
        queries: Float[Tensor, "batch dim"],
        of_images: Float[Tensor, "image dim"],
        generator: torch.Generator,
    ) -> Float[Tensor, "batch dim"]:
        """Disturb the queries of a batch.

        Args:
            queries: Not normalized; each keeps its length.
            of_images: Those of all training images.
            generator: The only source of chance.
        """
        count = (len(queries), 1)
        moved = queries
        if self.mix:
            share = self.mix * torch.rand(count, generator=generator)
            others = torch.randint(len(of_images), (len(queries),), generator=generator)
            moved = moved.lerp(_as_long(of_images[others], queries), share)
        if self.noise:
            strength = self.noise * torch.rand(count, generator=generator)
            direction = torch.randn(queries.shape, generator=generator)
            moved = moved + strength * _as_long(direction, queries)
        if self.noise or self.mix:
            moved = _as_long(moved, queries)
        if self.drop:
            moved = moved.masked_fill(torch.rand(count, generator=generator) < self.drop, 0.0)
        return moved


def _as_long(
    vectors: Float[Tensor, "batch dim"], others: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch dim"]:
    """Give vectors the lengths of others."""
    lengths = others.norm(dim=1, keepdim=True)
    return vectors * (lengths / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12))
