"""Go from one query to another: mixtures of texts, pictures and rows along a path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int64

from rdm_batch.errors import RdmBatchError
from rdm_batch.generation.modes.mode import (
    Embed,
    NoPictures,
    SampleInputs,
    embedded,
    too_few_rows,
)
from rdm_batch.generation.modes.queried import QUERY_COLUMN, ContextOf, Turn, variant_of
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.prompts import Prompts
from rdm_batch.inputs.queries import GivenPath, GivenQueries, open_path
from rdm_batch.inputs.resolve import Resolved, attempt
from rdm_batch.retrieval.mixtures import PathKind, between
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.conditioning import InterpolateConditioning

END_COLUMN = "query_end"
"""Column of a sample set that names the second of two queries mixed."""
WEIGHT_COLUMN = "query_weight"
"""Column of a sample set with the weight of that one, 0 to 1."""


@dataclass(frozen=True)
class PathConditioner:
    """Give each sample the next point of a path.

    Attributes:
        names: What is mixed, in order.
        anchors: The embedding of each; where it is a row, nothing.
        row_ids: Row of the database of each; -1 where it is none.
        steps: Points of the path.
        turn: Which point each sample takes.
        path: How two embeddings are mixed.
        context_of: Makes contexts of mixtures.
    """

    names: tuple[str, ...]
    anchors: Float32[np.ndarray, "points dim"]
    row_ids: Int64[np.ndarray, " points"]
    steps: int
    turn: Turn
    path: PathKind
    context_of: ContextOf

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Condition each sample on its mixture, the neighbors of it, or both."""
        leg, weight = self._place(self.turn.of(noise.sample_indices))
        anchors, of_rows = self.anchors.copy(), self.row_ids >= 0
        if of_rows.any():
            anchors[of_rows] = retriever.fetch(self.row_ids[of_rows])
        mixed = between(anchors[leg], anchors[leg + 1], weight, self.path)
        columns = {
            QUERY_COLUMN: pa.array([self.names[at] for at in leg.tolist()], pa.string()),
            END_COLUMN: pa.array([self.names[at + 1] for at in leg.tolist()], pa.string()),
            WEIGHT_COLUMN: pa.array(weight, pa.float32()),
        }
        return SampleInputs(self.context_of(retriever, mixed), columns=columns)

    def _place(
        self, steps: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Give the leg of the path each point lies on, and how far along it."""
        legs = len(self.names) - 1
        along = steps * legs
        # In whole numbers: the ends of legs are met exactly.
        leg = np.minimum(along // (self.steps - 1), legs - 1)
        return leg, (along - leg * (self.steps - 1)) / (self.steps - 1)


@dataclass(frozen=True)
class Interpolate(NoPictures):
    """The mode ``interpolate``; see ``Mode``."""

    spec: InterpolateConditioning
    needs_proposal = False

    def read_prompts(self) -> Prompts | None:
        """Collect the texts of the path."""
        texts = tuple(point.text for point in self.spec.through if point.text is not None)
        return Prompts(texts) if texts else None

    def read_queries(self) -> GivenPath:
        """Open the pictures of the path."""
        points = [point.model_dump(exclude_none=True) for point in self.spec.through]
        return open_path(points, "conditioning.through")

    def problems(self, database: Database, queries: GivenQueries | None) -> Iterator[RdmBatchError]:
        """List what is asked for and the database does not have."""
        yield from too_few_rows("conditioning.k_nn", self.spec.k_nn, database)
        rows = [point.row for point in self.spec.through if point.row is not None]
        ids = np.array(rows, dtype=np.int64)
        where = "conditioning.through"
        yield from attempt(lambda: database.check_row_ids(ids, where)).problems

    def build_conditioner(self, opened: Resolved, embed: Embed) -> PathConditioner:
        """Embed the texts and pictures of the path."""
        spec, path = self.spec, opened.queries
        assert isinstance(path, GivenPath)
        dim = opened.database.manifest.dim
        anchors = np.zeros((len(spec.through), dim), dtype=np.float32)
        row_ids = np.full(len(spec.through), -1, dtype=np.int64)
        names = []
        texts = iter(embedded(opened, embed)[1]) if opened.prompts is not None else iter(())
        for place, point in enumerate(spec.through):
            if point.row is not None:
                row_ids[place] = point.row
                names.append(f"row {point.row}")
            elif point.text is not None:
                anchors[place] = next(texts)
                names.append(point.text)
            else:
                assert opened.encoder is not None  # the spec demands it
                picture = path.pictures[place]
                anchors[place] = embed.pictures(opened.encoder.spec, picture.location, 1)[0]
                names.append(picture.names[0])
        return PathConditioner(
            tuple(names),
            anchors,
            row_ids,
            spec.steps,
            Turn(spec.steps, spec.samples_per_query),
            spec.path,
            ContextOf(spec.k_nn, variant_of(spec.context)),
        )
