"""Show what given pictures show: their neighbors, with or without the pictures themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from rdm_batch.errors import RdmBatchError
from rdm_batch.generation.modes.mode import Embed, NoTexts, SampleInputs, too_few_rows
from rdm_batch.generation.modes.queried import (
    QUERY_COLUMN,
    ContextOf,
    Names,
    PictureOf,
    Turn,
    variant_of,
)
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.queries import GivenPictures, GivenQueries, open_pictures
from rdm_batch.inputs.resolve import Resolved
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.conditioning import ImageConditioning


@dataclass(frozen=True)
class EmbeddingConditioner:
    """Give each sample the next of the given embeddings."""

    embeddings: Float32[np.ndarray, "queries dim"]
    names: Names
    turn: Turn
    context_of: ContextOf

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Condition each sample on its query's embedding, neighbors, or both."""
        chosen = self.turn.of(noise.sample_indices)
        conditioning = self.context_of(retriever, self.embeddings[chosen])
        return SampleInputs(conditioning, columns={QUERY_COLUMN: self.names.of(chosen)})


@dataclass(frozen=True)
class Images(NoTexts):
    """The mode ``image``; see ``Mode``."""

    spec: ImageConditioning
    needs_proposal = False

    def read_queries(self) -> GivenPictures:
        """Open the pictures, and decode each once."""
        return open_pictures(self.spec.images, "conditioning.images")

    def problems(self, database: Database, queries: GivenQueries | None) -> Iterator[RdmBatchError]:
        """List what is asked for and the database cannot give."""
        yield from too_few_rows("conditioning.k_nn", self.spec.k_nn, database)

    def build_conditioner(self, opened: Resolved, embed: Embed) -> EmbeddingConditioner:
        """Embed the pictures."""
        spec, pictures = self.spec, opened.queries
        assert isinstance(pictures, GivenPictures)
        assert opened.encoder is not None  # the spec demands it where pictures are embedded
        return EmbeddingConditioner(
            embed.pictures(opened.encoder.spec, pictures.location, len(pictures)),
            Names(pictures.names),
            self._turn(pictures),
            ContextOf(spec.k_nn, variant_of(spec.context), spec.query_weight),
        )

    def picture_of(self, queries: GivenQueries | None) -> PictureOf:
        """Show the picture of a sample."""
        assert isinstance(queries, GivenPictures)
        return PictureOf(queries, self._turn(queries))

    def _turn(self, pictures: GivenPictures) -> Turn:
        return Turn(len(pictures), self.spec.samples_per_query)
