"""Take embeddings that were made elsewhere: as queries, or as whole contexts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from rdm_batch.errors import RdmBatchError, SpecError
from rdm_batch.generation.modes.images import EmbeddingConditioner
from rdm_batch.generation.modes.mode import (
    Conditioner,
    Embed,
    NoPictures,
    NoTexts,
    SampleInputs,
    too_few_rows,
)
from rdm_batch.generation.modes.queried import (
    QUERY_COLUMN,
    ContextOf,
    Names,
    Turn,
    variant_of,
    wrong_width,
)
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.queries import GivenEmbeddings, GivenQueries, open_embeddings
from rdm_batch.inputs.resolve import Resolved
from rdm_batch.retrieval.conditioning import given_embeddings
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.conditioning import EmbeddingsConditioning


@dataclass(frozen=True)
class WholeContextConditioner:
    """Give each sample the next of the given contexts as it is."""

    contexts: Float32[np.ndarray, "queries tokens dim"]
    names: Names
    turn: Turn

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Condition each sample on its context; nothing is searched."""
        chosen = self.turn.of(noise.sample_indices)
        conditioning = given_embeddings(self.contexts[chosen], retriever.dim)
        return SampleInputs(conditioning, columns={QUERY_COLUMN: self.names.of(chosen)})


@dataclass(frozen=True)
class Embeddings(NoTexts, NoPictures):
    """The mode ``embeddings``; see ``Mode``."""

    spec: EmbeddingsConditioning
    needs_proposal = False

    def read_queries(self) -> GivenEmbeddings:
        """Read the embeddings, and check every row."""
        return open_embeddings(self.spec.file, self.spec.column, "conditioning.file")

    def problems(self, database: Database, queries: GivenQueries | None) -> Iterator[RdmBatchError]:
        """List what is asked for and database or file cannot give."""
        spec = self.spec
        yield from too_few_rows("conditioning.k_nn", spec.k_nn, database)
        if not isinstance(queries, GivenEmbeddings):
            return
        _, tokens, dim = queries.embeddings.shape
        yield from wrong_width(f"conditioning.file {spec.file}", dim, database)
        if not queries.whole:
            return
        if spec.context != "embeddings":
            yield SpecError(
                "conditioning.context",
                f"is {spec.context!r}, but {spec.file} holds whole contexts (three axes)",
                "context embeddings, which takes them as they are",
                "or give one embedding for each query",
            )
        if tokens != spec.k_nn:
            yield SpecError(
                "conditioning.k_nn",
                f"is {spec.k_nn}, but {spec.file} holds contexts of {tokens} embeddings",
                f"k_nn: {tokens}",
            )

    def build_conditioner(self, opened: Resolved, embed: Embed) -> Conditioner:
        """Take the embeddings in turn."""
        spec, given = self.spec, opened.queries
        assert isinstance(given, GivenEmbeddings)
        names, turn = Names(stem=given.name), Turn(len(given), spec.samples_per_query)
        if given.whole:
            return WholeContextConditioner(given.embeddings, names, turn)
        context = ContextOf(spec.k_nn, variant_of(spec.context), spec.query_weight)
        return EmbeddingConditioner(given.embeddings[:, 0], names, turn, context)
