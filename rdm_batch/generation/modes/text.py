"""Follow prompts through the shared text and image space of CLIP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
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
from rdm_batch.generation.modes.queried import PROMPT_COLUMNS, ContextOf, Turn, variant_of
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.prompts import Prompts, read_prompts
from rdm_batch.inputs.queries import GivenQueries
from rdm_batch.inputs.resolve import Resolved
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.conditioning import TextConditioning


@dataclass(frozen=True)
class TextConditioner:
    """Give each sample the next prompt, so that any range of samples covers all prompts.

    Attributes:
        prompts: The prompts.
        embeddings: Their embeddings.
        turn: Which of them each sample takes.
        context_of: Makes contexts of embeddings.
        columns: What is recorded beside the prompts; None where nothing is.
    """

    prompts: tuple[str, ...]
    embeddings: Float32[np.ndarray, "prompts dim"]
    turn: Turn
    context_of: ContextOf
    columns: pa.Table | None = None

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Condition each sample on its prompt's embedding, neighbors, or both."""
        chosen = self.turn.of(noise.sample_indices)
        return SampleInputs(
            self.context_of(retriever, self.embeddings[chosen]),
            prompts=pick(self.prompts, chosen),
            columns=self._columns(pa.array(chosen)),
        )

    def _columns(self, chosen: pa.Array) -> dict[str, pa.Array]:
        if self.columns is None:
            return {}
        taken = self.columns.take(chosen)
        return {
            f"{PROMPT_COLUMNS}{name}": taken.column(name).combine_chunks()
            for name in taken.schema.names
        }


@dataclass(frozen=True)
class Text(NoQueries, NoPictures):
    """The mode ``text``; see ``Mode``."""

    spec: TextConditioning
    needs_proposal = False

    def read_prompts(self) -> Prompts:
        """Give the prompts of the job file, or of the file it names."""
        spec = self.spec
        if spec.prompts is not None:
            return Prompts(spec.prompts)
        assert spec.prompts_file is not None  # the spec demands exactly one of the two
        field = "conditioning.prompts_file"
        return read_prompts(spec.prompts_file, field, spec.prompt_column, spec.columns)

    def problems(self, database: Database, queries: GivenQueries | None) -> Iterator[RdmBatchError]:
        """List what is asked for and the database cannot give."""
        yield from too_few_rows("conditioning.k_nn", self.spec.k_nn, database)

    def build_conditioner(self, opened: Resolved, embed: Embed) -> TextConditioner:
        """Embed the prompts."""
        spec = self.spec
        texts, embeddings = embedded(opened, embed)
        assert opened.prompts is not None
        return TextConditioner(
            texts,
            embeddings,
            Turn(len(texts), spec.samples_per_query),
            ContextOf(spec.k_nn, variant_of(spec.context), spec.query_weight),
            opened.prompts.columns,
        )
