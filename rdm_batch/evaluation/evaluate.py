"""From images of any kind to scores: which features are needed, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32

from rdm_batch.errors import MetricError
from rdm_batch.evaluation.checks import check_scores
from rdm_batch.evaluation.edits import read_edits, require_edits
from rdm_batch.evaluation.features import load_features
from rdm_batch.evaluation.novelty import measure_novelty, read_neighbor_ids, require_database
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.encoders import load_named_encoder
from rdm_batch.inputs.extractors import (
    describe_extractor,
    extractor_digest,
    resize_of,
    scores_by_extractor,
)
from rdm_batch.inputs.image_sets import ImageSet, SampleImages
from rdm_batch.inputs.references import (
    OpenedReferences,
    Reference,
    open_reference,
    open_references,
)
from rdm_batch.metrics.compute import Findings, ScoreSettings, SideData, compute_scores
from rdm_batch.metrics.edits import EditData
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.networks import NETWORK_NAMES
from rdm_batch.metrics.novelty import NoveltyDistances
from rdm_batch.metrics.pairing import Influences
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.tasks import HERE, TaskRunner
from rdm_batch.specs.job import DatabaseSpec, EvaluationSpec, ExtractorSpec
from rdm_batch.specs.scores import OWN_LAYERS, SCORES, Score
from rdm_batch.storage.sample_set import SampleSet

Extract = Callable[[ImageSet, ExtractorSpec], None]
"""Make sure that the features of every part of a set are stored."""
Side = FeatureSet | ReferenceStatistics


@dataclass(frozen=True)
class EvaluationRequest:
    """Say what is to be judged, against what, and how.

    Args:
        samples: Images or saved statistics, as ``open_reference`` takes them.
        evaluation: Reference, scores and extractor.
        database: Where the samples' neighbors came from. None where novelty is not asked for.
        allow_partial: Accept a sample set with missing shards; scores say so.
        settings: Neighborhood sizes, seeds, resampling.
        opened: The database, where it is open already.
        influences: Whether to find out what every image does to each score.
    """

    samples: str
    evaluation: EvaluationSpec
    database: DatabaseSpec | None = None
    allow_partial: bool = False
    settings: ScoreSettings = field(default_factory=ScoreSettings)
    opened: Database | None = None
    influences: bool = False

    def open_database(self) -> Database | None:
        """Give the database, opened here where it was not before; None where it is not known.

        Raises:
            DatabaseError: There is no complete database.
        """
        if self.opened is None and self.database is not None:
            return Database.open(self.database.uri)
        return self.opened


@dataclass(frozen=True)
class Judged:
    """Hold the scores of one extractor and what they were made from.

    Args:
        scores: One per id.
        samples: Features of the samples.
        reference: What they were compared with. None where no score needed one.
        findings: What the scores have found out on their way.
        novelty: Distances to neighbors and database, where asked for.
    """

    scores: tuple[Score, ...]
    samples: Side
    reference: ReferenceStatistics | None
    findings: Findings
    novelty: NoveltyDistances | None


@dataclass(frozen=True)
class Evaluated:
    """Hold a finished evaluation.

    Args:
        scores: One per id, in the order asked for.
        samples: What was judged.
        reference: What it was judged against.
        judged: The parts of the evaluation, one per extractor.
    """

    scores: tuple[Score, ...]
    samples: Reference
    reference: Reference
    judged: tuple[Judged, ...]

    def influences(self) -> dict[str, Influences]:
        """Return what every image does to each score that has such; none unless asked for."""
        parts = (part.findings.influences or {} for part in self.judged)
        return {score: found for part in parts for score, found in part.items()}


@dataclass(frozen=True)
class OpenedSides:
    """Hold both sides of an evaluation, opened.

    Args:
        samples: What is judged.
        references: What it is judged against.
    """

    samples: Reference
    references: OpenedReferences


def open_sides(
    request: EvaluationRequest, references: OpenedReferences | None = None
) -> OpenedSides:
    """Open what is judged and what it is judged against, each location once.

    Args:
        request: What to judge and how.
        references: What is open already. None opens it here.

    Raises:
        RdmBatchError: The images or the reference cannot be used, or a score does not exist or
            cannot be made with the extractors named.
    """
    check_scores(request.evaluation, request.database)
    samples = open_reference(request.samples, request.allow_partial, request.evaluation.resize)
    for score in request.evaluation.scores:
        if SCORES[score].edits:
            require_edits(sample_set_of(samples, score), score)
    return OpenedSides(
        samples=samples,
        references=references or open_references(request.evaluation),
    )


def evaluate(
    request: EvaluationRequest,
    extract: Extract,
    runner: TaskRunner = HERE,
    sides: OpenedSides | None = None,
) -> Evaluated:
    """Compute scores of images; features that are stored are not computed again.

    Args:
        request: What to judge and how.
        extract: Computes missing features.
        runner: Where parts of large scores are computed.
        sides: What ``open_sides`` opened. None opens it here.

    Raises:
        RdmBatchError: The images or the reference cannot be used, or a score cannot be made from
            them.
    """
    sides = sides or open_sides(request)
    groups = scores_by_extractor(request.evaluation, request.database)
    judged = tuple(
        _Group(
            request, sides.samples, sides.references, extractor, tuple(ids), extract, runner
        ).judge()
        for extractor, ids in groups.items()
    )
    found = {score.id: score for part in judged for score in part.scores}
    scores = tuple(found[wanted] for wanted in request.evaluation.scores)
    return Evaluated(scores, sides.samples, sides.references.reference, judged)


@dataclass(frozen=True)
class _Group:
    """Scores of one evaluation that are made from features of one extractor."""

    request: EvaluationRequest
    samples: Reference
    references: OpenedReferences
    extractor: ExtractorSpec
    ids: tuple[str, ...]
    extract: Extract
    runner: TaskRunner

    def judge(self) -> Judged:
        generated = self._side(self.samples)
        statistics = self._statistics(generated)
        novelty = self._novelty(generated, statistics)
        findings = Findings(influences={} if self.request.influences else None)
        scores = compute_scores(
            generated,
            statistics,
            self.ids,
            self.request.settings,
            SideData(texts=self._texts(), novelty=novelty, edits=self._edits()),
            self.samples.partial,
            self.runner,
            findings,
        )
        return Judged(tuple(scores), generated, statistics, findings, novelty)

    def _side(self, source: Reference) -> Side:
        """Give the features of images, extracting what is missing, or what is saved of them."""
        digest = extractor_digest(self.extractor)
        if source.statistics is not None:
            source.statistics.require_extractor(self.extractor.name, digest)
            return source.statistics.as_features() or source.statistics
        if source.images is None:
            source.require_moments(self.extractor.name, resize_of(self.extractor))
            return source.finish(describe_extractor(self.extractor), None)
        return self._features(source.images)

    def _statistics(self, generated: Side) -> ReferenceStatistics | None:
        kinds = [SCORES[score] for score in self.ids if SCORES[score].reference is not None]
        if self.references.held_out is not None:
            kinds = [kind for kind in kinds if "held_out" not in kind.distances]
        return self._as_reference(self.references.reference, generated) if kinds else None

    def _as_reference(self, source: Reference, generated: Side) -> ReferenceStatistics:
        if source.statistics is not None:
            return source.statistics
        features = None if source.images is None else self._side(source)
        assert features is None or isinstance(features, FeatureSet)
        return source.finish(generated.extractor, features)

    def _texts(self) -> Float32[np.ndarray, "n d"] | None:
        score = next((score for score in self.ids if SCORES[score].prompts), None)
        if score is None:
            return None
        if self.extractor.name in NETWORK_NAMES:
            raise MetricError(
                score,
                f"{self.extractor.name} reads no texts",
                "an image-text encoder, as extractor, as encoder or as the database's encoder",
            )
        batches = sample_set_of(self.samples, score).iter_batches(["prompt"])
        prompts = [prompt for batch in batches for prompt in batch.column("prompt").to_pylist()]
        if any(prompt is None for prompt in prompts):
            raise MetricError(
                f"{score} of {self.samples.uri}",
                f"{prompts.count(None):,} of {len(prompts):,} samples have no prompt",
                "samples made from text",
                f"leave {score} out",
            )
        return self._embed(prompts)

    def _embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        distinct = sorted(set(texts))
        encoder = load_named_encoder(self.extractor.name, self.extractor.weights)
        rows = encoder.encode_texts(distinct)
        embedded: Float32[np.ndarray, "n d"] = rows[np.searchsorted(distinct, texts)]
        return embedded

    def _edits(self) -> EditData | None:
        if not any(SCORES[score].edits for score in self.ids):
            return None
        assert isinstance(self.samples.images, SampleImages)  # as ``open_sides`` has checked
        return read_edits(self.samples.images, self.ids, self._features, self._embed)

    def _features(self, images: ImageSet) -> FeatureSet:
        self.extract(images, self.extractor)
        used = {SCORES[score].layer for score in self.ids}
        return load_features(images, extractor_digest(self.extractor), OWN_LAYERS.keys() - used)

    def _novelty(
        self, generated: Side, statistics: ReferenceStatistics | None
    ) -> NoveltyDistances | None:
        wanted = {of: score for score in self.ids for of in SCORES[score].distances}
        if not wanted:
            return None
        if self.request.database is None or not isinstance(generated, FeatureSet):
            raise MetricError(
                f"novelty of {self.samples.uri}",
                "it is not known which database the samples were made from"
                if self.request.database is None
                else "its features are not saved",
                "samples and their database",
                "name the database, or leave the novelty scores out",
            )
        database = self.request.open_database()
        assert database is not None
        layer = next(iter(generated.layers))
        held_out = self._held_out(generated, statistics) if "held_out" in wanted else None
        neighbor_ids = None
        if "neighbors" in wanted:
            made = sample_set_of(self.samples, wanted["neighbors"])
            require_database(made, database)
            neighbor_ids = read_neighbor_ids(made)
        measured = measure_novelty(
            database,
            generated.extractor.digest,
            generated.layer(layer),
            neighbor_ids,
            None if held_out is None else held_out.rows(layer),
            self.runner,
        )
        return replace(measured, held_out_digest=None if held_out is None else held_out.digest)

    def _held_out(
        self, generated: Side, statistics: ReferenceStatistics | None
    ) -> ReferenceStatistics:
        if self.references.held_out is not None:
            statistics = self._as_reference(self.references.held_out, generated)
        assert statistics is not None
        return statistics


def sample_set_of(samples: Reference, score: str) -> SampleSet:
    """Give the sample set that was judged.

    Raises:
        MetricError: The samples are images alone.
    """
    if isinstance(samples.images, SampleImages):
        return samples.images.sample_set
    raise MetricError(
        f"{score} of {samples.uri}", "images alone", "a sample set, which knows its rows"
    )
