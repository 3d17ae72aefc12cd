"""Features of a sample set, kept beside it, and the scores made from them. No Ray."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import numpy as np

from rdm_batch.engine.extractors import extractor_digest
from rdm_batch.errors import MetricError, SpecError
from rdm_batch.metrics.compute import SCORE_NAMES, compute_scores
from rdm_batch.metrics.evaluation import LOGITS_LAYER, SPATIAL_LAYER, ScoreSettings
from rdm_batch.metrics.features import FeatureExtractor, FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.score import Score
from rdm_batch.specs.job import EvaluationSpec, JobSpec
from rdm_batch.storage.manifest import ShardEntry, shard_name
from rdm_batch.storage.object_store import local_path
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.temporary import stored_file

JOB_SCORES = tuple(
    name for name in SCORE_NAMES if name != "clip_score" and not name.startswith("novelty")
)
"""Scores a job can ask for: those made from the features of samples and reference alone."""
FEATURES_FOLDER = "_features"
_DEFAULTS = ScoreSettings()
_LEAST_SAMPLES = {
    "precision": _DEFAULTS.k + 1,
    "recall": _DEFAULTS.k + 1,
    "density": _DEFAULTS.density_k + 1,
    "coverage": _DEFAULTS.density_k + 1,
    "is": _DEFAULTS.splits,
}
_NEED_FEATURES = ("precision", "recall", "density", "coverage", "kid")
"""Scores that compare single samples with single reference images, not moments."""
_NEED_LAYER = {"is": LOGITS_LAYER, "sfid": SPATIAL_LAYER}


def load_reference(uri: str) -> ReferenceStatistics:
    """Load a reference from anywhere.

    Raises:
        MetricError: It is missing, damaged or something else.
    """
    return ReferenceStatistics.load(local_path(uri, error=MetricError))


def score_problems(spec: JobSpec) -> Iterator[SpecError]:
    """List the scores a job asks for that are not known, or that need a larger set."""
    if spec.evaluation is None:
        return
    for name in spec.evaluation.scores:
        if name not in JOB_SCORES:
            close = difflib.get_close_matches(name, JOB_SCORES, n=1)
            yield SpecError(
                "evaluation.scores",
                f"{name!r} is not a score of a job",
                f"one of {', '.join(JOB_SCORES)}",
                f"did you mean {close[0]}?" if close else "",
            )
        least = _LEAST_SAMPLES.get(name, 2)
        if spec.sampling.num_samples < least:
            yield SpecError(
                "sampling.num_samples",
                f"is {spec.sampling.num_samples}, too few for the score {name!r}",
                f"at least {least}",
            )


def check_extractor(spec: JobSpec) -> str | None:
    """Give the digest of a job's feature extractor; None where the job computes no scores.

    Raises:
        RdmBatchError: Its weights are not named or not there.
    """
    if spec.evaluation is None:
        return None
    return extractor_digest(spec.evaluation.extractor.name, spec.evaluation.extractor.weights)


def check_reference(spec: JobSpec, extractor: str | None) -> None:
    """Check that the features of a finished set can be compared with the reference.

    Args:
        spec: The job.
        extractor: Digest of its feature extractor; None where that has not been found.

    Raises:
        MetricError: The reference is missing or damaged, belongs to another extractor, or
            lacks what a score needs.
    """
    evaluation = spec.evaluation
    if evaluation is None:
        return
    reference = load_reference(evaluation.reference)
    if extractor is not None and reference.extractor.digest != extractor:
        raise MetricError(
            f"evaluation.reference {evaluation.reference}",
            f"holds features of {reference.extractor.name} "
            f"(digest {reference.extractor.digest[:12]}), but evaluation.extractor is "
            f"{evaluation.extractor.name} (digest {extractor[:12]})",
            "one extractor on both sides",
            "build the reference again, or name its extractor",
        )
    for name in evaluation.scores:
        layer = _NEED_LAYER.get(name)
        if layer is not None and layer not in reference.extractor.layers:
            raise MetricError(
                "evaluation.scores",
                f"{name!r} is made from the layer {layer!r}, which {reference.extractor.name} "
                "does not have",
                "inception-v3-compat as extractor",
                f"name it in evaluation.extractor, or leave out {name}",
            )
    needy = [name for name in evaluation.scores if name in _NEED_FEATURES]
    if needy and not reference.features:
        raise MetricError(
            f"evaluation.reference {evaluation.reference}",
            f"holds moments but no features, which the score {needy[0]!r} needs",
            "the features of the reference images",
            f"build it again with its features kept, or leave out {', '.join(needy)}",
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
