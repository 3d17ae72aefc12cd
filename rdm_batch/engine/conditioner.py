"""What each sample of a shard is conditioned on, by the job's conditioning mode."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from rdm_batch.retrieval.conditioning import (
    Conditioning,
    ContextVariant,
    class_pools,
    from_class_pools,
    from_queries,
    unconditional,
)
from rdm_batch.retrieval.merge import Neighbors
from rdm_batch.retrieval.proposal import Proposal, Weighting
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import POOL, QUERY, SampleNoise

VARIANTS: dict[str, ContextVariant] = {
    "text": "query",
    "text_and_neighbors": "query_and_neighbors",
    "neighbors": "neighbors",
}


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


@dataclass(frozen=True)
class UnconditionalConditioner:
    """Draw a pseudo-query from the (already truncated) proposal distribution."""

    proposal: Proposal
    k_nn: int
    weighting: Weighting

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Condition each sample on the neighbors of its pseudo-query."""
        uniforms = noise.uniform(QUERY, ())
        return SampleInputs(
            unconditional(retriever, self.proposal, uniforms, self.k_nn, self.weighting)
        )


@dataclass(frozen=True)
class TextConditioner:
    """Give sample i the prompt i mod P, so that any range of samples covers all prompts."""

    prompts: tuple[str, ...]
    embeddings: Float32[np.ndarray, "prompts dim"]
    k_nn: int
    variant: ContextVariant

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Condition each sample on its prompt's embedding, neighbors, or both."""
        chosen = noise.sample_indices % len(self.prompts)
        conditioning = from_queries(retriever, self.embeddings[chosen], self.k_nn, self.variant)
        return SampleInputs(conditioning, prompts=_pick(self.prompts, chosen))


class ClassConditioner:
    """Give sample i the class i mod L; it draws its neighbors from the class's pool.

    Args:
        labels: Class names.
        prompts: The text embedded for each class.
        embeddings: Embeddings of these texts.
        k_nn: Neighbors drawn per sample.
        pool_size: Entries retrieved per class.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        prompts: tuple[str, ...],
        embeddings: Float32[np.ndarray, "classes dim"],
        k_nn: int,
        pool_size: int,
    ) -> None:
        self._labels = labels
        self._prompts = prompts
        self._embeddings = embeddings
        self._k_nn = k_nn
        self._pool_size = pool_size
        self._lock = threading.Lock()
        self._pools: Neighbors | None = None

    def __getstate__(self) -> dict[str, object]:
        # Conditioners travel to the heads; a lock stays where it is.
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Condition each sample on a random draw from its class's pool."""
        chosen = noise.sample_indices % len(self._labels)
        conditioning = from_class_pools(
            self._class_pools(retriever), chosen, noise.uniform(POOL, (self._k_nn,))
        )
        return SampleInputs(
            conditioning, labels=_pick(self._labels, chosen), prompts=_pick(self._prompts, chosen)
        )

    def _class_pools(self, retriever: Retriever) -> Neighbors:
        # The pools are the same for every shard; several threads may ask for them first.
        with self._lock:
            if self._pools is None:
                self._pools = class_pools(retriever, self._embeddings, self._pool_size)
            return self._pools


def _pick(texts: Sequence[str], chosen: Int64[np.ndarray, " n"]) -> tuple[str, ...]:
    return tuple(texts[position] for position in chosen.tolist())
