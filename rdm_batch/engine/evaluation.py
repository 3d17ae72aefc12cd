"""Features of a sample set, kept beside it, and the scores made from them. No Ray."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np

from rdm_batch.engine.extractors import extractor_digest
from rdm_batch.errors import MetricError, SpecError
from rdm_batch.metrics.compute import SCORE_NAMES, compute_scores
from rdm_batch.metrics.features import FeatureExtractor, FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.score import Score
from rdm_batch.specs.job import EvaluationSpec, JobSpec
from rdm_batch.storage.manifest import ShardEntry, shard_name
from rdm_batch.storage.object_store import local_path
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.temporary import stored_file

FEATURES_FOLDER = "_features"


def load_reference(uri: str) -> ReferenceStatistics:
    """Load a reference from anywhere.

    Raises:
        MetricError: It is missing, damaged or something else.
    """
    return ReferenceStatistics.load(local_path(uri, error=MetricError))


def check_evaluation(spec: JobSpec) -> None:
    """Check that a finished set can be scored as the job asks.

    Raises:
        SpecError: A score is not known.
        RdmBatchError: The reference or the extractor is missing, or they do not belong
            together.
    """
    evaluation = spec.evaluation
    if evaluation is None:
        return
    unknown = [name for name in evaluation.scores if name not in SCORE_NAMES]
    if unknown:
        close = difflib.get_close_matches(unknown[0], SCORE_NAMES, n=1)
        raise SpecError(
            "evaluation.scores",
            f"{unknown[0]!r} is not a score",
            f"of {', '.join(SCORE_NAMES)}",
            f"did you mean {close[0]}?" if close else "",
        )
    extractor = evaluation.extractor
    digest = extractor_digest(extractor.name, extractor.weights)
    reference = load_reference(evaluation.reference)
    if reference.extractor.digest != digest:
        raise MetricError(
            f"evaluation.reference {evaluation.reference}",
            f"holds features of {reference.extractor.name} "
            f"(digest {reference.extractor.digest[:12]}), but evaluation.extractor is "
            f"{extractor.name} (digest {digest[:12]})",
            "one extractor on both sides",
            "build the reference again, or name its extractor",
        )


def features_key(digest: str, entry: ShardEntry) -> str:
    """Name the features of a shard, below the root of its set.

    The shard's own digest is part of the name: features of other samples never match.
    """
    name = f"{shard_name(entry.shard)}-{entry.sha256[:16]}.npz"
    return f"{FEATURES_FOLDER}/{digest[:16]}/{name}"


def shards_without_features(sample_set: SampleSet, digest: str) -> list[ShardEntry]:
    """List the shards whose features are not stored yet."""
    stored = {item.key for item in sample_set.store.list_objects(FEATURES_FOLDER)}
    return [e for e in sample_set.entries() if features_key(digest, e) not in stored]


def extract_shard(sample_set: SampleSet, entry: ShardEntry, extractor: FeatureExtractor) -> None:
    """Compute the features of one shard and store them beside the set.

    Args:
        sample_set: The set.
        entry: The shard.
        extractor: What computes them.
    """
    where = sample_set.store.child_uri(entry.file)
    parts, ids = [], []
    for batch in sample_set.iter_batches(["sample_index", "image"], [entry.shard]):
        ids += batch.column("sample_index").to_pylist()
        images = [decode_png(row["bytes"]) for row in batch.column("image").to_pylist()]
        parts.append(extractor.extract(np.stack(images)))
    layers = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    features = FeatureSet(extractor.description, np.array(ids, dtype=np.int64), layers, where)
    key = features_key(extractor.description.digest, entry)
    with stored_file(sample_set.store, key) as path:
        features.save(path)


def load_features(sample_set: SampleSet, digest: str) -> FeatureSet:
    """Read the stored features of a whole set.

    Raises:
        MetricError: Features of a shard are missing or damaged.
    """
    uri = sample_set.uri
    parts = [
        FeatureSet.load(local_path(f"{uri}/{features_key(digest, entry)}", error=MetricError))
        for entry in sample_set.entries()
    ]
    return FeatureSet.concatenate(parts, uri)


def score_set(uri: str, evaluation: EvaluationSpec) -> Sequence[Score]:
    """Compute the scores of a set whose features are stored.

    Args:
        uri: The sample set.
        evaluation: Reference, scores and extractor.

    Raises:
        MetricError: Features are missing, or the reference lacks what a score needs.
    """
    extractor = evaluation.extractor
    digest = extractor_digest(extractor.name, extractor.weights)
    features = load_features(SampleSet.open(uri), digest)
    return compute_scores(features, load_reference(evaluation.reference), evaluation.scores)
