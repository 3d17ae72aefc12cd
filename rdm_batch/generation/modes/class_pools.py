"""Draw k neighbors at random from the pool that a class name retrieves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from rdm_batch.errors import RdmBatchError
from rdm_batch.generation.modes.mode import (
    Embed,
    NoPictures,
    NoQueries,
    SampleInputs,
    embedded,
    pick,
    too_few_rows,
)
from rdm_batch.generation.modes.queried import Turn
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.prompts import Prompts
from rdm_batch.inputs.queries import GivenQueries
from rdm_batch.inputs.resolve import Resolved
from rdm_batch.retrieval.conditioning import class_pools, class_prompt, from_class_pools
from rdm_batch.retrieval.merge import Neighbors
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import POOL, SampleNoise
from rdm_batch.specs.conditioning import ClassConditioning


class ClassConditioner:
    """Give sample i the class i mod L; it draws its neighbors from the class's pool.

    Args:
        labels: Class names.
        prompts: The text embedded for each class.
        embeddings: Embeddings of these texts.
        k_nn: Neighbors drawn per sample.
        pool_size: Entries retrieved per class.
        samples_per_query: Samples in a row of one class.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        prompts: tuple[str, ...],
        embeddings: Float32[np.ndarray, "classes dim"],
        k_nn: int,
        pool_size: int,
        samples_per_query: int = 1,
    ) -> None:
        self._labels = labels
        self._prompts = prompts
        self._embeddings = embeddings
        self._k_nn = k_nn
        self._pool_size = pool_size
        self._turn = Turn(len(labels), samples_per_query)
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
        chosen = self._turn.of(noise.sample_indices)
        conditioning = from_class_pools(
            self._class_pools(retriever), chosen, noise.uniform(POOL, (self._k_nn,))
        )
        return SampleInputs(
            conditioning, labels=pick(self._labels, chosen), prompts=pick(self._prompts, chosen)
        )

    def _class_pools(self, retriever: Retriever) -> Neighbors:
        # The pools are the same for every shard; several threads may ask for them first.
        with self._lock:
            if self._pools is None:
                self._pools = class_pools(retriever, self._embeddings, self._pool_size)
            return self._pools


@dataclass(frozen=True)
class ClassPools(NoQueries, NoPictures):
    """The mode ``class``; see ``Mode``."""

    spec: ClassConditioning
    needs_proposal = False

    def read_prompts(self) -> Prompts:
        """Put each label into the template."""
        labels = self.spec.labels
        return Prompts(tuple(class_prompt(label, self.spec.template) for label in labels), labels)

    def problems(self, database: Database, queries: GivenQueries | None) -> Iterator[RdmBatchError]:
        """List what is asked for and the database cannot give."""
        yield from too_few_rows("conditioning.k_nn", self.spec.k_nn, database)
        yield from too_few_rows("conditioning.pool_size", self.spec.pool_size, database)

    def build_conditioner(self, opened: Resolved, embed: Embed) -> ClassConditioner:
        """Embed the text of each label; the pools are looked up when the first sample is."""
        texts, embeddings = embedded(opened, embed)
        return ClassConditioner(
            self.spec.labels,
            texts,
            embeddings,
            self.spec.k_nn,
            self.spec.pool_size,
            self.spec.samples_per_query,
        )
