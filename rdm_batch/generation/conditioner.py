"""What a sample is conditioned on, and what decides it: a conditioner, made by a mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from rdm_batch.retrieval.conditioning import Conditioning
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import SampleNoise


@dataclass(frozen=True)
class SampleInputs:
    """Hold what the samples of a shard are made from, in sample order.

    Attributes:
        conditioning: Context and its provenance.
        labels: Class of each sample; None outside class conditioning.
        prompts: Text that was embedded for each sample; None without text.
    """

    conditioning: Conditioning
    labels: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None


@runtime_checkable
class Conditioner(Protocol):
    """Condition samples, each from its own noise: never from its shard or batch."""

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Look up and assemble the context of every sample of ``noise``."""


def pick(texts: Sequence[str], chosen: Int64[np.ndarray, " n"]) -> tuple[str, ...]:
    """Give the text of each sample by its position."""
    return tuple(texts[position] for position in chosen.tolist())
