"""Draw a pseudo-query from the database by the proposal distribution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rdm_batch.errors import RdmBatchError, SpecError
from rdm_batch.generation.modes.mode import (
    Conditioner,
    Embed,
    NoPictures,
    NoQueries,
    NoTexts,
    SampleInputs,
    too_few_rows,
)
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.queries import GivenQueries
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
        rows = self.proposal.draw(noise.uniform(QUERY, ()), self.weighting)
        return SampleInputs(unconditional(retriever, rows, self.k_nn))


class CommonConditioner:
    """Draw a pseudo-query that other jobs draw as well, wherever they keep it.

    Args:
        proposal: All entries.
        top_m: Fraction of them that this job keeps.
        k_nn: Tokens per context.
        weighting: How entries are drawn.
    """

    def __init__(self, proposal: Proposal, top_m: float, k_nn: int, weighting: Weighting) -> None:
        self._proposal, self._k_nn, self._weighting = proposal, k_nn, weighting
        # Once, not with every batch: both look at all entries.
        self._kept = proposal.truncate(top_m)
        self._tries = proposal.tries(self._kept, weighting)

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Condition each sample on the neighbors of its pseudo-query."""
        uniforms = noise.uniform(QUERY, (self._tries,))
        rows = self._proposal.draw_common(uniforms, self._kept, self._weighting)
        return SampleInputs(unconditional(retriever, rows, self._k_nn))


@dataclass(frozen=True)
class Unconditional(NoTexts, NoQueries, NoPictures):
    """The mode ``unconditional``; see ``Mode``."""

    spec: UnconditionalConditioning
    needs_proposal = True

    def problems(self, database: Database, queries: GivenQueries | None) -> Iterator[RdmBatchError]:
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

    def build_conditioner(self, opened: Resolved, embed: Embed) -> Conditioner:
        """Draw from the share of the proposal distribution that the job keeps."""
        proposal = opened.proposal
        if proposal is None:
            rows = every_row(opened.database.manifest.rows)
            proposal = rows.without(opened.database.removed())
        spec = self.spec
        if spec.common_pseudo_queries:
            return CommonConditioner(proposal, spec.top_m, spec.k_nn, spec.weighting)
        return UnconditionalConditioner(proposal.truncate(spec.top_m), spec.k_nn, spec.weighting)
