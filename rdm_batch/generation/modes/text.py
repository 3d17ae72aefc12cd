"""Follow prompts through the shared text and image space of CLIP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from rdm_batch.errors import RdmBatchError
from rdm_batch.generation.modes.mode import EmbedTexts, SampleInputs, embedded, pick, too_few_rows
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.prompts import Prompts, read_lines
from rdm_batch.inputs.resolve import Resolved
from rdm_batch.retrieval.conditioning import ContextVariant, from_queries
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.conditioning import TextConditioning

VARIANTS: Mapping[str, ContextVariant] = {
    "text": "query",
    "text_and_neighbors": "query_and_neighbors",
    "neighbors": "neighbors",
}


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
        return SampleInputs(conditioning, prompts=pick(self.prompts, chosen))


@dataclass(frozen=True)
class Text:
    """The mode ``text``; see ``Mode``."""

    spec: TextConditioning
    needs_proposal = False

    def read_prompts(self) -> Prompts:
        """Give the prompts of the job file, or of the file it names."""
        if self.spec.prompts is not None:
            return Prompts(self.spec.prompts)
        assert self.spec.prompts_file is not None  # the spec demands exactly one of the two
        return Prompts(read_lines(self.spec.prompts_file, "conditioning.prompts_file"))

    def problems(self, database: Database) -> Iterator[RdmBatchError]:
        """List what is asked for and the database cannot give."""
        yield from too_few_rows("conditioning.k_nn", self.spec.k_nn, database)

    def build_conditioner(self, opened: Resolved, embed: EmbedTexts) -> TextConditioner:
        """Embed the prompts."""
        texts, embeddings = embedded(opened, embed)
        return TextConditioner(texts, embeddings, self.spec.k_nn, VARIANTS[self.spec.context])
