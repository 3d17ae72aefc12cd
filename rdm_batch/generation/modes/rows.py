"""Take rows of the database that the job names: as pseudo-queries, or as whole contexts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from rdm_batch.errors import RdmBatchError, SpecError
from rdm_batch.generation.modes.mode import Embed, NoPictures, NoTexts, SampleInputs, too_few_rows
from rdm_batch.generation.modes.queried import Turn
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.queries import GivenQueries, GivenRows, open_rows, rows_of
from rdm_batch.inputs.resolve import Resolved, attempt
from rdm_batch.retrieval.conditioning import Conditioning, given_rows, with_own_rows
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.conditioning import RowsConditioning


@dataclass(frozen=True)
class RowsConditioner:
    """Give each sample the next of the given rows.

    Attributes:
        row_ids: The given rows.
        turn: Which of them each sample takes.
        k_nn: Rows of a context.
        searched: Whether the context is the rows nearest to a given one, or the given ones.
        removed: Rows that no search finds.
    """

    row_ids: Int64[np.ndarray, "queries tokens"]
    turn: Turn
    k_nn: int
    searched: bool
    removed: Int64[np.ndarray, " gone"]

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Condition each sample on its rows or their neighbors."""
        chosen = self.row_ids[self.turn.of(noise.sample_indices)]
        if not self.searched:
            return SampleInputs(given_rows(retriever, chosen))
        query_ids = np.ascontiguousarray(chosen[:, 0])
        queries = retriever.fetch(query_ids)
        found = with_own_rows(
            retriever.search(queries, self.k_nn), query_ids, queries, self.removed
        )
        return SampleInputs(Conditioning(found.embeddings, found.ids, found.scores, query_ids))


@dataclass(frozen=True)
class Rows(NoTexts, NoPictures):
    """The mode ``rows``; see ``Mode``."""

    spec: RowsConditioning
    needs_proposal = False

    def read_queries(self) -> GivenRows:
        """Take the ids of the job file, or read the file it names."""
        if self.spec.rows is not None:
            return rows_of(self.spec.rows, "conditioning.rows")
        assert self.spec.rows_file is not None  # the spec demands exactly one of the two
        return open_rows(self.spec.rows_file, "conditioning.rows_file")

    def problems(self, database: Database, queries: GivenQueries | None) -> Iterator[RdmBatchError]:
        """List what is asked for and the database does not have."""
        spec = self.spec
        yield from too_few_rows("conditioning.k_nn", spec.k_nn, database)
        if not isinstance(queries, GivenRows):
            return
        ids = queries.row_ids
        where = "conditioning.rows"
        if spec.rows_file is not None:
            where = f"conditioning.rows_file {spec.rows_file}"
        yield from attempt(lambda: database.check_row_ids(ids.ravel(), where)).problems
        wanted = spec.k_nn if spec.context == "rows" else 1
        if ids.shape[1] != wanted:
            yield SpecError(
                where,
                f"gives {ids.shape[1]} rows for each entry",
                f"{wanted}, for context {spec.context!r} with k_nn {spec.k_nn}",
            )

    def build_conditioner(self, opened: Resolved, embed: Embed) -> RowsConditioner:
        """Take the rows in turn."""
        spec, given = self.spec, opened.queries
        assert isinstance(given, GivenRows)
        turn = Turn(len(given), spec.samples_per_query)
        removed = opened.database.removed()
        return RowsConditioner(given.row_ids, turn, spec.k_nn, spec.context == "neighbors", removed)
