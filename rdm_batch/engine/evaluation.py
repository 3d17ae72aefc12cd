"""From images of any kind to scores: which features are needed, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32

from rdm_batch.engine.check_evaluation import check_scores
from rdm_batch.engine.encoders import load_named_encoder
from rdm_batch.engine.extractors import extractor_digest
from rdm_batch.engine.features import load_features
from rdm_batch.engine.image_sets import ImageSet, SampleImages, open_image_set
from rdm_batch.engine.novelty import measure_novelty, read_neighbor_ids
from rdm_batch.engine.references import Reference, open_reference
from rdm_batch.errors import MetricError
from rdm_batch.metrics.compute import ScoreSettings, SideData, compute_scores
from rdm_batch.metrics.evaluation import LOGITS_LAYER, SPATIAL_LAYER
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.networks import NETWORK_NAMES
from rdm_batch.metrics.novelty import NoveltyDistances
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.score import Score
from rdm_batch.metrics.tasks import HERE, TaskRunner
from rdm_batch.specs.job import DatabaseSpec, EvaluationSpec, ExtractorSpec

_SPECIAL_LAYERS = {"is": LOGITS_LAYER, "sfid": SPATIAL_LAYER}
_NEED_NO_REFERENCE = ("is", "clip_score", "novelty_neighbors", "novelty_database")

Extract = Callable[[ImageSet, ExtractorSpec], None]
"""Make sure that the features of every part of a set are stored."""


@dataclass(frozen=True)
class EvaluationRequest:
    """Say what is to be judged, against what, and how.

    Args:
        samples: Images, as ``open_image_set`` takes them.
        evaluation: Reference, scores and extractor.
        database: Where the samples' neighbors came from. None where novelty is not asked for.
        allow_partial: Accept a sample set with missing shards; scores say so.
        settings: Neighborhood sizes, seeds, resampling.
    """

    samples: str
    evaluation: EvaluationSpec
    database: DatabaseSpec | None = None
    allow_partial: bool = False
    settings: ScoreSettings = field(default_factory=ScoreSettings)


def evaluate(
    request: EvaluationRequest, extract: Extract, runner: TaskRunner = HERE
) -> list[Score]:
    """Compute scores of images; features that are stored are not computed again.

    Args:
        request: What to judge and how.
        extract: Computes missing features.
        runner: Where parts of large scores are computed.

    Returns:
        One score per name, in the order of the names.

    Raises:
        RdmBatchError: The images or the reference cannot be used, or a score does not exist or
            cannot be made from them.
    """
    check_scores(request.evaluation)
    samples = open_image_set(request.samples, request.allow_partial)
    reference = open_reference(request.evaluation.reference)
    found: dict[str, Score] = {}
    for extractor, names in _by_extractor(request):
        group = _Group(request, samples, reference, extractor, tuple(names), extract, runner)
        found |= {score.name: score for score in group.scores()}
    return [found[name] for name in request.evaluation.scores]


def _by_extractor(request: EvaluationRequest) -> Iterator[tuple[ExtractorSpec, list[str]]]:
    """Group scores by the network they need: novelty is measured where the database is searched."""
    own = request.evaluation.extractor
    encoder = None if request.database is None else request.database.encoder
    # A job without prompts need not name the database's encoder; its own may be the same.
    searched = own if encoder is None else ExtractorSpec(name=encoder.name, weights=encoder.weights)
    groups: dict[ExtractorSpec, list[str]] = {}
    for name in request.evaluation.scores:
        if name.startswith("novelty") or (name == "clip_score" and own.name in NETWORK_NAMES):
            groups.setdefault(searched, []).append(name)
        else:
            groups.setdefault(own, []).append(name)
    yield from groups.items()


@dataclass(frozen=True)
class _Group:
    """Scores of one evaluation that are made from features of one extractor."""

    request: EvaluationRequest
    samples: ImageSet
    reference: Reference
    extractor: ExtractorSpec
    names: tuple[str, ...]
    extract: Extract
    runner: TaskRunner

    def scores(self) -> list[Score]:
        digest = extractor_digest(self.extractor)
        unused = {layer for name, layer in _SPECIAL_LAYERS.items() if name not in self.names}
        generated = self._features(self.samples, digest, unused)
        statistics = self._statistics(generated, digest, unused)
        return compute_scores(
            generated,
            statistics,
            self.names,
            self.request.settings,
            SideData(texts=self._texts(), novelty=self._novelty(generated, statistics)),
            self.samples.partial,
            self.runner,
        )

    def _features(self, images: ImageSet, digest: str, unused: set[str]) -> FeatureSet:
        self.extract(images, self.extractor)
        return load_features(images, digest, unused)

    def _statistics(
        self, generated: FeatureSet, digest: str, unused: set[str]
    ) -> ReferenceStatistics | None:
        if all(name in _NEED_NO_REFERENCE for name in self.names):
            return None
        images = self.reference.images
        features = None if images is None else self._features(images, digest, unused)
        return self.reference.finish(generated.extractor, features)

    def _texts(self) -> Float32[np.ndarray, "n d"] | None:
        if "clip_score" not in self.names:
            return None
        if self.extractor.name in NETWORK_NAMES:
            raise MetricError(
                "clip_score",
                f"{self.extractor.name} reads no texts",
                "an image-text encoder, as extractor or as the database's encoder",
            )
        prompts = [row["prompt"] for row in _rows(self.samples, "prompt", "clip_score")]
        if any(prompt is None for prompt in prompts):
            raise MetricError(
                f"clip_score of {self.samples.uri}",
                f"{prompts.count(None):,} of {len(prompts):,} samples have no prompt",
                "samples made from text",
                "leave clip_score out",
            )
        distinct = sorted(set(prompts))
        encoder = load_named_encoder(self.extractor.name, self.extractor.weights)
        rows = encoder.encode_texts(distinct)
        texts: Float32[np.ndarray, "n d"] = rows[np.searchsorted(distinct, prompts)]
        return texts

    def _novelty(
        self, generated: FeatureSet, statistics: ReferenceStatistics | None
    ) -> NoveltyDistances | None:
        if not any(name.startswith("novelty") for name in self.names):
            return None
        if self.request.database is None or not isinstance(self.samples, SampleImages):
            raise MetricError(
                f"novelty of {self.samples.uri}",
                "it is not known which database the samples were made from",
                "a sample set and its database",
                "name the database, or leave the novelty scores out",
            )
        held_out = None
        if "novelty_held_out" in self.names and statistics is not None:
            held_out = statistics.rows(next(iter(generated.layers)))
        return measure_novelty(
            self.request.database.uri,
            generated.extractor.digest,
            next(iter(generated.layers.values())),
            read_neighbor_ids(self.samples.sample_set),
            held_out,
            self.runner,
        )


def _rows(images: ImageSet, column: str, score: str) -> list[dict[str, Any]]:
    if not isinstance(images, SampleImages):
        raise MetricError(
            f"{score} of {images.uri}", "images alone", "a sample set, which knows its prompts"
        )
    batches = images.sample_set.iter_batches([column])
    return [row for batch in batches for row in batch.to_pylist()]
