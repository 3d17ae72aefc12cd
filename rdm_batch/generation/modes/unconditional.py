"""Draw a pseudo-query from the database by the proposal distribution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rdm_batch.errors import RdmBatchError, SpecError
from rdm_batch.generation.modes.mode import EmbedTexts, SampleInputs, too_few_rows
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.resolve import Resolved
from rdm_batch.retrieval.conditioning import unconditional
from rdm_batch.retrieval.proposal import Proposal, Weighting, every_row
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import QUERY, SampleNoise
from rdm_batch.specs.conditioning import UnconditionalConditioning


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
class Unconditional:
    """The mode ``unconditional``; see ``Mode``."""

    spec: UnconditionalConditioning
    needs_proposal = True

    def read_prompts(self) -> None:
        """Embed no text."""

    def problems(self, database: Database) -> Iterator[RdmBatchError]:
        """List what is asked for and the database cannot give."""
        spec = self.spec
        yield from too_few_rows("conditioning.k_nn", spec.k_nn, database)
        if database.manifest.proposal is None and (spec.weighting == "proposal" or spec.top_m < 1):
            yield SpecError(
                "conditioning.weighting",
                f"{database.uri} was built without a proposal distribution",
                "the neighbor counts of a training set",
                "rebuild it with --proposal-from, or set weighting: uniform and top_m: 1.0",
            )

    def build_conditioner(self, opened: Resolved, embed: EmbedTexts) -> UnconditionalConditioner:
        """Draw from the share of the proposal distribution that the job keeps."""
        proposal = opened.proposal
        if proposal is None:
            rows = every_row(opened.database.manifest.rows)
            proposal = rows.without(opened.database.removed())
        return UnconditionalConditioner(
            proposal.truncate(self.spec.top_m), self.spec.k_nn, self.spec.weighting
        )
